// A dash before a word means "without" to the search; who types --max-flash looks for it.
document.addEventListener("input", ({ target }) => {
  if (target.matches(".md-search__input")) target.value = target.value.replace(/(^|\s)-+(?=\w)/g, "$1");
}, true);
