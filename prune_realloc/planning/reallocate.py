"""From what pruning shows to the widths of a new EfficientViT, and two controls of equal cost. No torch here.

Rule `stream`: everything inside blocks is as narrow as the rules allow, and all the rest of the budget is in the
channels of the stages, so that they lose least together by the damage curve of the source's stream; `swapped`, its
control, takes curves of any components. The unmeasured network is the same by a law that has measured nothing,
1 / channels.

Rule `kept`: the uniform network has Q = K = V = embed / heads, FFN ratio 4 and the same growth of channels from stage
to stage. A pruned source says which share of each component it kept, in which part of its depth. The reallocated
network
is the uniform one with every width scaled by that share, and the whole scaled by one multiplier until it meets the
budget: the shape of the pruned network at another size. Channels of a stage follow the share that all components of
that part of the source kept, relative to the whole source, and the share of the stream itself where it was pruned. A
component that the source does not have has the uniform network's relation to the channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from prune_realloc.core.cost import DEFAULT_KIND, KINDS
from prune_realloc.core.errors import InputError
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.planning.channel_reasons import ChannelsExplained
from prune_realloc.planning.channels import StageCosts
from prune_realloc.planning.control import uniform_control
from prune_realloc.planning.curves import LAW, Curve
from prune_realloc.planning.retention import Retention, retention
from prune_realloc.planning.rules import RULES, least
from prune_realloc.planning.shapes import Shape, base_config
from prune_realloc.planning.sizing import Sizing, uniform_start
from prune_realloc.planning.spending import at_budget
from prune_realloc.planning.width_reasons import Explained
from prune_realloc.recipe.plan import SitePlan
from prune_realloc.recipe.target import Network, Target


def reallocate(sites: Mapping[str, SitePlan], target: Target) -> Network:
    """Widths of the target at its budget, each with its reason, and those of its two controls.

    Args:
        sites: what pruning kept, site name -> width and width of the source, as `plan` or a planned recipe has it.
        target: without a rule, `kept` is followed; rules `stream` and `swapped` need its `curves`.

    Raises:
        InputError: the budget cannot be met under the rules, or the sites lack what reallocation reads.
    """
    target = target if target.rule else target.model_copy(update={"rule": "kept"})
    base = base_config(target)
    kind = target.kind or DEFAULT_KIND
    limit: int = getattr(target, kind) or base.cost.of(kind)
    narrow = _Narrow(target, kind, limit)
    shape, explained = (
        _by_kept(target, retention(sites, target), kind, limit) if target.rule in RULES else narrow.explained()
    )
    config = shape.config()
    control = uniform_control(target, config.cost, kind)
    unmeasured = narrow.unmeasured()
    return Network(
        kind=kind,
        requested=limit,
        **{kind: config.cost.of(kind) for kind in KINDS},
        **{f"control_{kind}": control.cost.of(kind) for kind in KINDS},
        **{f"unmeasured_{kind}": unmeasured.cost.of(kind) for kind in KINDS if unmeasured is not None},
        widths=explained.widths(control, unmeasured),
        args=config.args(),
        control_args=control.args(),
        unmeasured_args=None if unmeasured is None else unmeasured.args(),
    )


def _by_kept(target: Target, shown: Retention, kind: str, limit: int) -> tuple[Shape, Explained]:
    """The network whose widths follow from shares kept."""
    sizing = Sizing(target, uniform_start(target), RULES[str(target.rule)](shown, target.seed))
    shape, multiplier = at_budget(sizing, kind, limit)
    return shape, Explained(sizing, shape, multiplier)


class _Narrow:
    """The networks of a budget with everything inside blocks at its least."""

    def __init__(self, target: Target, kind: str, limit: int) -> None:
        self.target, self.kind, self.limit = target, kind, limit
        self.sizing = Sizing(target, uniform_start(target), least(target))

    def explained(self) -> tuple[Shape, ChannelsExplained]:
        """The one of the target's rule."""
        curves = self._curves()
        shape = self._shape(curves)
        return shape, ChannelsExplained(self.costs, shape, curves)

    def unmeasured(self) -> EfficientVitConfig | None:
        """The one without a measurement; None where its channels may not be so wide."""
        try:
            return self._shape((LAW,) * len(self.sizing.heads)).config()
        except InputError:  # ceilings of the channels; `emit` says that it is missing
            return None

    @cached_property
    def costs(self) -> StageCosts:
        return StageCosts(self.sizing, self.kind, self.limit)

    def _shape(self, curves: Sequence[Curve]) -> Shape:
        if self.target.rule_of("embed").move:
            return self.costs.best(curves)
        return at_budget(self.sizing, self.kind, self.limit)[0]  # in the uniform network's proportions

    def _curves(self) -> Sequence[Curve]:
        """What channels are worth in each stage.

        Raises:
            InputError: there are none, or not one for each stage.
        """
        stages = len(self.sizing.heads)
        if self.target.rule == "unmeasured":
            return (LAW,) * stages
        if self.target.curves is None:
            raise InputError(
                f"target.rule: {self.target.rule} follows damage curves, and the source has none; give the folder of "
                "the analysis, or rule kept or unmeasured"
            )
        curves = tuple(map(Curve, self.target.curves))
        if len(curves) not in (1, stages):
            raise InputError(f"target.curves: {len(curves)} for {stages} stages; give one for all or one for each")
        return curves if len(curves) == stages else curves * stages
