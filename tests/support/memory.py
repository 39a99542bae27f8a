"""A formula of memory made by hand, for analyses made by hand."""

from itertools import chain

from prune_realloc.core.memory import Alive, Memory, Moment


def make_memory(analysis, tokens, number=4):
    """In attention the stream twice, Q, K and V, and the logits where widths differ; in the FFN the stream twice, and
    twice what is hidden."""
    moments = []
    for name in (name for name in analysis.widths if name.startswith("blocks.") and name.count(".") == 1):
        heads, qk, v, ffn = (f"{name}.{axis}" for axis in ("heads", "qk", "v", "ffn"))
        beside = chain.from_iterable(term.sites for term in analysis.terms if ffn in term.sites)
        stream = Alive(sites=(next(site for site in beside if site.endswith("embed")),), each=2 * tokens * number)
        inside = (
            Alive(sites=(heads, qk), each=2 * tokens * number),
            Alive(sites=(heads, v), each=tokens * number),
            Alive(sites=(heads,), each=2 * tokens**2 * number, unlike=(qk, v)),
        )
        moments.append(Moment(place=f"{name}.attn", alive=(stream, *inside)))
        hidden = Alive(sites=(ffn,), each=2 * tokens * number)
        moments.append(Moment(place=f"{name}.mlp", alive=(stream, hidden)))
    return Memory(number=number, buffers=0, moments=tuple(moments))
