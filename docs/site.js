// Names for screen readers that the theme leaves out.
document.querySelectorAll("[role=dialog]:not([aria-label])").forEach((e) => e.setAttribute("aria-label", "Search"))
document.querySelectorAll("nav.md-code__nav").forEach((e, i) => e.setAttribute("aria-label", `Code ${i + 1}`))
