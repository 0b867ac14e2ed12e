"""Scripts that find what a person could not read, name or see, in a page of a real browser."""

NAMELESS = """[...document.querySelectorAll('a, button, input, select, textarea, svg[role=img]')]
    .filter(e => e.type !== 'hidden')
    .filter(e => !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length))
    .map(e => e.outerHTML.slice(0, 80))"""
LOW_CONTRAST = """(() => {
    const channel = c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
    const parse = text => text.match(/[\\d.]+/g).map(Number);
    const ground = e => {
        for (; e; e = e.parentElement) {
            const c = parse(getComputedStyle(e).backgroundColor);
            if (c.length < 4 || c[3] > 0) return c;
        }
        return [255, 255, 255];
    };
    const ratio = (ink, paper) => {
        const [a, b] = [light(parse(ink)), light(paper)];
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    };
    const texts = [...document.querySelectorAll('body *')].filter(e => e.checkVisibility()
        && [...e.childNodes].some(n => n.nodeType === Node.TEXT_NODE && n.data.trim()));
    // Letters on a part of a bar have a halo or a colour of their own; the marks are drawn.
    return texts.filter(e => !e.closest('svg') || e.matches('.tick, .name, .limit-name, .label'))
        .map(e => [ratio(getComputedStyle(e)[e.closest('svg') ? 'fill' : 'color'], ground(e)),
            e.outerHTML.slice(0, 80)])
        .filter(([ratio]) => ratio < 4.5);
})()"""
"""Texts of any colour with less than WCAG 2.2's 4.5 to 1 (criterion 1.4.3), with their ratio."""
FOCUS_IS_SEEN = """(() => {
    const e = document.activeElement, style = getComputedStyle(e);
    return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1;
})()"""
"""True if the focused element has an outline (criterion 2.4.7)."""
