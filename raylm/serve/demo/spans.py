"""Token probabilities of an answer as HTML: each token coloured by its probability, its alternatives on hover or click.

Style sheets alone, no script: the same piece stands in a Gradio page and in a Streamlit page. Whatever a model wrote is escaped.
"""

from __future__ import annotations

import html
import math

from .answers import Answer, Token

MOST_TOKENS = 2000
# the darker, the less likely: at least these probabilities, from plain to strong
STEPS = (0.9, 0.7, 0.5, 0.3, 0.15, 0.05, 0.0)
_SHARES = (0, 12, 22, 34, 46, 60, 78)
STYLE = (
    """<style>
.probs{--hot:#d9713c;--ink:inherit;--soft:color-mix(in srgb,currentColor 60%,transparent);
--line:color-mix(in srgb,currentColor 16%,transparent);--panel:color-mix(in srgb,currentColor 5%,transparent);
position:relative;font-size:.9rem;line-height:1.5}
.probs .said{white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.9 ui-monospace,Menlo,Consolas,monospace;
max-height:20rem;overflow-y:auto;padding:.2rem .1rem;unicode-bidi:plaintext}
.probs .t{border-radius:.2rem;cursor:help;outline:none;padding:.12rem 0;box-shadow:inset -1px 0 0 var(--line)}
.probs .t:hover,.probs .t:focus{box-shadow:0 0 0 1.5px var(--hot)}
.probs .none{color:var(--soft)}
.probs .foot{border-top:1px solid var(--line);margin-top:.5rem;min-height:9.6rem;color:var(--soft);padding-top:.6rem;
font-size:.84rem}
.probs .card{display:none;position:absolute;left:0;right:0;bottom:0;height:9.6rem;box-sizing:border-box;padding:.55rem 0 0;
white-space:normal;font:13px/1.45 system-ui,sans-serif;background:var(--ground,#fff);border-top:1px solid var(--line);z-index:1}
.probs .t:focus>.card{display:block}.probs .t:hover>.card{display:block;z-index:2}
.probs .card b{font-weight:600}.probs .card code{font:12px ui-monospace,Menlo,Consolas,monospace;background:var(--panel);
padding:.05rem .3rem;border-radius:.2rem;white-space:pre;color:inherit;border:0}
.probs .row{display:grid;grid-template-columns:minmax(5rem,38%) 1fr 4.2rem;gap:.6rem;align-items:center;margin-top:.12rem}
.probs .row code{overflow:hidden;text-overflow:ellipsis}.probs .row.on code{box-shadow:0 0 0 1px var(--hot)}
.probs .row u{display:block;height:.5rem;border-radius:.25rem;background:var(--hot);opacity:.75;min-width:1px;
text-decoration:none}
.probs .row i{font-style:normal;text-align:right;font-variant-numeric:tabular-nums}
.probs .key{display:inline-flex;align-items:center;gap:.35rem;white-space:nowrap}
.probs .foot *{color:var(--soft)!important}.probs .key u{display:flex;border-radius:.2rem;overflow:hidden;
outline:1px solid var(--line)}
.probs .key s{width:1.1rem;height:.7rem;text-decoration:none}
.probs details{margin-top:.5rem}.probs summary{cursor:pointer;color:var(--soft)}
.probs .beam{white-space:pre-wrap;background:var(--panel);border-radius:.35rem;padding:.4rem .6rem;margin:.3rem 0;
overflow-wrap:anywhere}
"""
    + "".join(
        f".probs .p{at}{{background:color-mix(in srgb,var(--hot) {share}%,transparent)}}" for at, share in enumerate(_SHARES)
    )
    + "</style>"
)


def step(logprob: float) -> int:
    """Which of STEPS a log-probability (natural logarithm) falls into: 0 is the likeliest."""
    probability = math.exp(logprob)
    return next(at for at, least in enumerate(STEPS) if probability >= least or at == len(STEPS) - 1)


def figures(tokens: list[Token]) -> str:
    """`12 tokens, mean probability 61 %, perplexity 1.9`: the geometric mean of the probabilities, and its inverse."""
    if not tokens:
        return ""
    mean = sum(token.logprob for token in tokens) / len(tokens)
    count = f"{len(tokens)} token{'s' if len(tokens) != 1 else ''}"
    return f"{count}, mean probability {_percent(mean)}, perplexity {math.exp(-mean):.3g}"


def tokens_html(answer: Answer | None) -> str:
    """The panel of one answer; a hint where it has no probabilities."""
    if answer is None or not (answer.tokens or answer.beams):
        hint = "No token probabilities: tick “token probabilities” before you ask, and the next answer has them."
        return f'<div class="probs"><span class="none">{hint}</span></div>'
    shown = "".join(_token(token) for token in answer.tokens[:MOST_TOKENS])
    more = len(answer.tokens) - MOST_TOKENS
    rest = f'<span class="none"> … {more} more tokens</span>' if more > 0 else ""
    key = "".join(f'<s class="p{at}"></s>' for at in range(len(STEPS)))
    foot = f'{figures(answer.tokens)} · <span class="key">likely <u>{key}</u> unlikely</span><br>'
    foot += "Point at a token for its alternatives; click to keep them."
    panel = f'<div class="said" dir="auto">{shown}{rest}</div><div class="foot">{foot}</div>' if answer.tokens else ""
    return f'<div class="probs">{panel}</div>{_beams(answer)}'


def _token(token: Token) -> str:
    return f'<span class="t p{step(token.logprob)}" tabindex="0">{_visible(token.text)}{_card(token)}</span>'


def _card(token: Token) -> str:
    """The token in its place, and the likeliest ones there."""
    drawn = [text for text, _ in token.top]
    top = list(token.top) if token.text in drawn else [*token.top, (token.text, token.logprob)]
    rows = "".join(
        f'<span class="row{" on" if text == token.text else ""}"><code>{_quoted(text)}</code>'
        f'<span><u style="width:{math.exp(logprob):.1%}"></u></span><i>{_percent(logprob)}</i></span>'
        for text, logprob in top[:6]
    )
    head = f"<b>{_percent(token.logprob)}</b> <code>{_quoted(token.text)}</code> log-probability {token.logprob:.3f}"
    return f'<span class="card">{head}{rows}</span>'


def _beams(answer: Answer) -> str:
    if not answer.beams:
        return ""
    beams = "".join(
        f'<div class="beam" dir="auto">{html.escape(beam.text) or "(nothing)"}'
        + (f' <span class="none">log-probability {beam.logprob:.2f}</span></div>' if beam.logprob is not None else "</div>")
        for beam in answer.beams
    )
    return f'<div class="probs"><details open><summary>{len(answer.beams)} further beams</summary>{beams}</details></div>'


def _visible(text: str) -> str:
    """A token in running text: ends of lines are seen and break, and nothing has no width of zero."""
    return html.escape(text).replace("\n", "↵\n") or "∅"


def _quoted(text: str) -> str:
    """A token by itself: its spaces and ends of lines are seen."""
    return html.escape(text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")) or "∅"


def _percent(logprob: float) -> str:
    share = 100 * math.exp(logprob)
    return (
        f"{share:.0f} %" if share >= 10 else f"{share:.1f} %" if share >= 1 else f"{share:.2g} %" if share >= 0.01 else "< 0.01 %"
    )
