// What the theme leaves out for screen readers and the keyboard. It adds some elements late, so this runs again then.
const label = (selector, name) =>
  document.querySelectorAll(selector + ":not([aria-label])").forEach((e) => e.setAttribute("aria-label", name()))
let count = 0
function complete() {
  label("[role=dialog]", () => "Search")
  label("nav.md-code__nav", () => `Code ${++count}`)
  // Inner lists of pages: two of them have the name of the same section, and the outer one is the landmark.
  document.querySelectorAll("nav.md-nav nav.md-nav[aria-labelledby]:not([role])").forEach((e) => {
    e.removeAttribute("aria-labelledby")
    e.removeAttribute("aria-expanded")
    e.setAttribute("role", "none")
  })
  document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])").forEach((e) => {
    e.setAttribute("tabindex", "0")
    e.setAttribute("role", "group")
    e.setAttribute("aria-label", `Table ${++count}`)
  })
}
// On a small screen, a button opens the drawer with the pages: the theme's label takes no keyboard. Escape closes it.
const drawer = document.getElementById("__drawer")
const menu = document.querySelector("label.md-header__button[for=__drawer]")
const button = document.createElement("button")
button.className = menu.className
button.innerHTML = menu.innerHTML
button.setAttribute("for", "__drawer") // what the theme's style knows it by
button.setAttribute("aria-label", "Menu")
button.addEventListener("click", () => drawer.click())
menu.replaceWith(button)
document.addEventListener("keydown", (e) => {
  if (e.key === "Escape" && drawer.checked) { drawer.click(); button.focus() }
})
// The same for the contents of the page, and for a section's title, which leads back. The theme has Enter click a label.
document.querySelectorAll(".md-nav--primary .md-nav .md-nav__title, .md-nav--primary [for=__toc]").forEach((e) => {
  e.setAttribute("tabindex", "0")
})
document.querySelectorAll(".md-nav--primary .md-nav__toggle").forEach((toggle) => {
  toggle.addEventListener("change", () => {
    const shown = toggle.checked ? ":scope > .md-nav > .md-nav__title" : `label.md-nav__link[for="${toggle.id}"]`
    if (drawer.checked) toggle.parentElement.querySelector(shown)?.focus({ preventScroll: true })
  })
})
// The switch between light and dark is a radio button, already checked: a space changes nothing. Enter switches it.
document.querySelector("[data-md-component=palette]")?.addEventListener("keydown", (e) => {
  if (e.key !== " ") return
  e.preventDefault() // the page scrolls otherwise
  e.target.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }))
})
complete()
new MutationObserver(complete).observe(document.body, { childList: true, subtree: true })
