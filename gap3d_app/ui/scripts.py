"""What the browser alone decides; functions that gradio calls with the values of an event's inputs."""

from __future__ import annotations

import json

from gap3d_app.ui import texts

_SHOW_BLEND = """(prompt, picture, views, model) => ({
    __type__: 'update',
    visible: BOTH.includes(model) && (Boolean(picture) || Boolean(views?.length)) && (prompt || '').trim().length > 0,
})"""
SHOW_METHOD = "(picture) => ({__type__: 'update', visible: Boolean(picture)})"

# On a phone the result is below the fold.
BEGIN = """(prompt, picture, views) => {
    const something = Boolean(picture) || Boolean(views?.length) || (prompt || '').trim().length > 0;
    if (something && window.innerWidth < 700) document.querySelector('#viewer').scrollIntoView();
}"""

DOWNLOAD = (
    "() => { setTimeout(() => document.querySelector('a#turntable-file, #turntable-file a, #turntable-file')"
    "?.click(), 300); }"
)

# Gradio gives its gallery's buttons and its viewer no names, and the viewer's canvas the first place in the order of
# Tab. Its parts come and go, so they are looked at whenever they change. The live region stays where it is, because
# screen readers are silent about one that is replaced; it hears a stage once and not its every step.
_ON_LOAD = """() => {
    const watch = (element, look) => {
        new MutationObserver(look).observe(element, {
            childList: true, subtree: true, attributes: true, attributeFilter: ['tabindex', 'data-said'],
        });
        look();
    };
    const set = (element, name, value) => {
        if (element && element.getAttribute(name) !== value) element.setAttribute(name, value);
    };
    const $ = (selector) => document.querySelector(selector);
    watch($('#viewer'), () => {
        const empty = $('#viewer .empty'), canvas = $('#viewer canvas');
        set(empty, 'role', 'img');
        set(empty, 'aria-label', EMPTY);
        set(canvas, 'tabindex', '0');
        set(canvas, 'role', 'application');
        set(canvas, 'aria-label', MODEL);
    });
    watch($('#status'), () => {
        const said = $('#status .g-line')?.dataset.said || '', region = $('#said');
        if (region.textContent !== said) region.textContent = said;
    });
    // Its label hides the words on the button from those who speak them to press it.
    watch($('#picture'), () => $('#picture button[aria-dropeffect]')?.removeAttribute('aria-label'));
    // Two upload buttons with the same words: say what each is for, after the words on it. Once there is a file they
    // shrink to a sign within another button, which does nothing by itself and whose words gradio has forgotten.
    watch($('#advanced'), () => {
        for (const [place, purpose] of [['#views', VIEWS], ['#mesh', MESH]]) {
            const button = $(place + ' button[aria-dropeffect]'), around = $(place + ' button:has(button)');
            const words = button?.innerText.replace(/\\s+/g, ' ').trim() || MORE;
            set(button, 'aria-label', words + ': ' + purpose);
            set(around, 'title', MORE);
            set(around, 'aria-label', MORE);
            set(around, 'role', 'group');
            set(around, 'tabindex', '-1');
        }
    });
    const pictures = $('#example-pictures');
    if (pictures) watch(pictures, () => {
        pictures.querySelectorAll('button.gallery-item').forEach((button, i) => {
            set(button, 'aria-label', 'Example picture: ' + PICTURES[i]);
        });
    });
}"""


def show_blend(both: list[str]) -> str:
    """Show the blend where there are words and a picture, and weights that follow both.

    Args:
        both: keys of such weights.
    """
    return _SHOW_BLEND.replace("BOTH", json.dumps(both))


def on_load(pictures: list[str]) -> str:
    """Name what has no name and tell a screen reader how the run goes.

    Args:
        pictures: names of the example pictures in their order.
    """
    words = {"EMPTY": texts.VIEWER_EMPTY, "MODEL": texts.VIEWER_KEYS, "PICTURES": pictures,
             "VIEWS": texts.VIEWS_LABEL, "MESH": texts.MESH_LABEL, "MORE": texts.MORE_FILES}
    script = _ON_LOAD
    for name, value in words.items():
        script = script.replace(name, json.dumps(value))
    return script
