"""How the page looks, and what the browser may load for it: nothing from anywhere but its own server."""

from __future__ import annotations

import base64
import html
import json

from .answers import Answer
from .conversation import Conversation

NOBODY = "nobody"
OWN, GREEDY, SAMPLE, BEAM = WAYS = ("Model's own", "Greedy", "Sample", "Beam search")
PANEL_S = 0.5
"""Least seconds between two pictures of the token probabilities while an answer grows."""
# an image in an answer could carry what was said to somebody else's server; and the page works offline
CSP = "; ".join(
    (
        "default-src 'self'",
        # Gradio compiles its templates in the browser
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "media-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "connect-src 'self' data: blob:",
        "form-action 'self'",
        "object-src 'none'",
        "base-uri 'self'",
    )
)
FACTS = """
:root{--accent:#3c6fb4;--soft:color-mix(in srgb,currentColor 65%,transparent);
--line:color-mix(in srgb,currentColor 18%,transparent)}
.top{display:flex;align-items:baseline;gap:.7rem;flex-wrap:wrap;padding:.1rem 0 .4rem}
.top b{font-size:1.15rem;font-weight:650;letter-spacing:-.01em}.top span{color:var(--soft);font-size:.86rem}
.facts{display:flex;flex-wrap:wrap;gap:.35rem;min-height:1.7rem;align-items:center;font-size:.78rem;
color:var(--soft)}
.facts span{border:1px solid var(--line);border-radius:1rem;padding:.05rem .55rem;white-space:nowrap;
font-variant-numeric:tabular-nums}.facts code{font:inherit;font-family:ui-monospace,Menlo,Consolas,monospace}
.facts .bad{border-color:#c4473a;color:#c4473a;white-space:normal;border-radius:.5rem}
.facts .going::before{content:"";display:inline-block;width:.5rem;height:.5rem;border-radius:50%;background:var(--accent);
margin-right:.4rem;animation:going 1.2s ease-in-out infinite}@keyframes going{50%{opacity:.2}}
@media(prefers-reduced-motion:reduce){.facts .going::before{animation:none}}
.saved{display:flex;gap:.6rem;font-size:.85rem;align-items:center;color:var(--soft)}
.saved a{color:var(--accent);text-decoration:none;border:1px solid var(--line);border-radius:.4rem;padding:.15rem .6rem}
.saved a:hover{border-color:var(--accent)}
"""
CSS = (
    FACTS
    + """
.dark{--accent:#6f9fdd;color-scheme:dark}
.gradio-container{max-width:none!important}.gradio-container>main{padding-top:1rem!important}
.ask{position:sticky!important;bottom:0;z-index:20;background:var(--body-background-fill);padding:.5rem 0!important}
.probs{--ground:var(--block-background-fill)}
"""
)
STATES = {"waiting": "waiting", "streaming": "answering", "stopped": "stopped"}


def facts_html(answer: Answer | None) -> str:
    """One line on an answer: who gave it, how fast, how it ended."""
    if answer is None:
        return '<div class="facts"></div>'
    chips = [f"<span>{html.escape(answer.model)}</span>"]
    if answer.served:
        said = "fingerprint of the weights: raylm show walks back from it to the data"
        chips.append(f'<span title="{said}">weights <code>{html.escape(answer.served[:12])}</code></span>')
    chips += [f"<span>{html.escape(answer.dtype)}</span>"] if answer.dtype else []
    if answer.num_tokens:
        chips.append(f"<span>{answer.num_tokens:,} token{'s' if answer.num_tokens != 1 else ''}</span>")
    if answer.ended and answer.tokens_s and answer.sampling.streams:
        chips.append(f"<span>{answer.tokens_s:,.1f} tokens/s</span>")
    if answer.ended and answer.first_s:
        chips.append(f"<span>{'first word' if answer.sampling.streams else 'answer'} after {answer.first_s:.2f} s</span>")
    if answer.finish == "length":
        chips.append("<span>cut at the longest length</span>")
    if answer.state in STATES:
        going = ' class="going"' if not answer.ended else ""
        chips.append(f"<span{going}>{STATES[answer.state]}</span>")
    elif answer.why:
        chips.append(f'<span class="bad">{html.escape(answer.why)}</span>')
    return f'<div class="facts">{"".join(chips)}</div>'


def top_html(title: str, failed: str = "") -> str:
    """The head of the page."""
    bad = f'<div class="facts"><span class="bad">{html.escape(failed)}</span></div>' if failed else ""
    return f'<div class="top"><b>{html.escape(title)}</b><span>served by raylm</span></div>{bad}'


def files(conversation: Conversation) -> dict[str, tuple[str, str]]:
    """What a conversation is saved as: names of files with their media type and text."""
    record = json.dumps(conversation.export(), ensure_ascii=False, indent=1)
    return {
        "conversation.json": ("application/json", record),
        "conversation.md": ("text/markdown", conversation.markdown()),
    }


def saved_html(conversation: Conversation) -> str:
    """Links that save the conversation; the page holds it, and the server writes no file."""
    if not conversation.turns:
        return '<div class="saved">Save: nothing said yet</div>'
    links = ""
    for name, (kind, text) in files(conversation).items():
        data = base64.b64encode(text.encode("utf-8", "replace")).decode()
        links += f'<a download="{name}" href="data:{kind};charset=utf-8;base64,{data}">{name.rpartition(".")[2].upper()}</a>'
    return f'<div class="saved">Save: {links}</div>'
