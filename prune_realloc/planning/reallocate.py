"""From what pruning kept to the widths of a new EfficientViT, and two controls of equal cost. No torch here.

The uniform network has Q = K = V = embed / heads, FFN ratio 4 and the same growth of channels from stage to stage. A
pruned source says which share of each component it kept, in which part of its depth. The reallocated network is the
uniform one with every width scaled by that share, and the whole scaled by one multiplier until it meets the budget:
the shape of the pruned network at another size. Channels of a stage follow the share that all components of that part
of the source kept, relative to the whole source, and the share of the stream itself where it was pruned. A component
that the source does not have has the uniform network's relation to the channels.

The controls are the uniform network, and the unmeasured one: of the same rules, with every width inside blocks at the
least that they allow and channels in the uniform network's proportions.
"""

from __future__ import annotations

from collections.abc import Mapping

from prune_realloc.core.cost import DEFAULT_KIND, KINDS
from prune_realloc.core.errors import InputError
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.planning.control import uniform_control
from prune_realloc.planning.retention import Retention, retention
from prune_realloc.planning.rules import RULES, unmeasured
from prune_realloc.planning.shapes import base_config
from prune_realloc.planning.sizing import Sizing, uniform_start
from prune_realloc.planning.spending import at_budget
from prune_realloc.planning.width_reasons import Explained
from prune_realloc.recipe.plan import SitePlan
from prune_realloc.recipe.target import Network, Target


def reallocate(sites: Mapping[str, SitePlan], target: Target) -> Network:
    """Widths of the target at its budget, each with its reason, and those of its two controls.

    Args:
        sites: what pruning kept, site name -> width and width of the source, as `plan` or a planned recipe has it.

    Raises:
        InputError: the budget cannot be met under the rules, or the sites lack what reallocation reads.
    """
    base, kept = base_config(target), retention(sites, target)
    kind = target.kind or DEFAULT_KIND
    limit: int = getattr(target, kind) or base.cost.of(kind)
    sizing = Sizing(target, uniform_start(target), RULES[target.rule](kept, target.seed))
    shape, multiplier = at_budget(sizing, kind, limit)
    config = shape.config()
    control = uniform_control(target, config.cost, kind)
    least = _unmeasured_config(target, kept, kind, limit)
    return Network(
        kind=kind,
        requested=limit,
        **{kind: config.cost.of(kind) for kind in KINDS},
        **{f"control_{kind}": control.cost.of(kind) for kind in KINDS},
        **{f"unmeasured_{kind}": least.cost.of(kind) for kind in KINDS if least is not None},
        widths=Explained(sizing, shape, multiplier).widths(control, least),
        args=config.args(),
        control_args=control.args(),
        unmeasured_args=None if least is None else least.args(),
    )


def _unmeasured_config(target: Target, kept: Retention, kind: str, limit: int) -> EfficientVitConfig | None:
    """The network of the same rules and budget without a measurement; None where its channels may not be so wide."""
    sizing = Sizing(target, uniform_start(target), unmeasured(kept, target.seed))
    try:
        return at_budget(sizing, kind, limit)[0].config()
    except InputError:  # ceilings of the channels; `emit` says that it is missing
        return None
