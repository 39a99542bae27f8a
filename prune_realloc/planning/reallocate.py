"""From what pruning kept to the widths of a new EfficientViT, and the uniform control of equal cost. No torch here.

The uniform network has Q = K = V = embed / heads, FFN ratio 4 and the same growth of channels from stage to stage. A
pruned source says which share of each component it kept, in which part of its depth. The reallocated network is the
uniform one with every width scaled by that share, and the whole scaled by one multiplier until it meets the budget:
the shape of the pruned network at another size. Channels of a stage follow the share that all components of that part
of the source kept, relative to the whole source, and the share of the stream itself where it was pruned. A component
that the source does not have has the uniform network's relation to the channels.
"""

from __future__ import annotations

from collections.abc import Mapping

from prune_realloc.core.cost import DEFAULT_KIND, KINDS
from prune_realloc.planning.control import uniform_control
from prune_realloc.planning.retention import retention
from prune_realloc.planning.shapes import base_config
from prune_realloc.planning.sizing import Sizing, uniform_start
from prune_realloc.planning.spending import at_budget
from prune_realloc.planning.width_reasons import Explained
from prune_realloc.recipe.plan import SitePlan
from prune_realloc.recipe.target import Network, Target


def reallocate(sites: Mapping[str, SitePlan], target: Target) -> Network:
    """Widths of the target at its budget, each with its reason, and the uniform control.

    Args:
        sites: what pruning kept, site name -> width and width of the source, as `plan` or a planned recipe has it.

    Raises:
        InputError: the budget cannot be met under the rules, or the sites lack what reallocation reads.
    """
    base, kept = base_config(target), retention(sites, target)
    kind = target.kind or DEFAULT_KIND
    limit: int = getattr(target, kind) or base.cost.of(kind)
    sizing = Sizing(target, uniform_start(target), kept)
    shape, multiplier = at_budget(sizing, kind, limit)
    config = shape.config()
    control = uniform_control(target, config.cost, kind)
    return Network(
        kind=kind,
        requested=limit,
        **{kind: config.cost.of(kind) for kind in KINDS},
        **{f"control_{kind}": control.cost.of(kind) for kind in KINDS},
        widths=Explained(sizing, shape, multiplier).widths(control),
        args=config.args(),
        control_args=control.args(),
    )
