// The only module that creates elements. Names and numbers come from unknown callers, so text is never parsed as markup.

export function element(tag, attributes = {}, children = []) {
  const created = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) created.setAttribute(name, value);
  created.append(...children);
  return created;
}

/** Puts the children in this order. The focus stays where it is, also in a child that is moved. */
export function arrange(parent, children) {
  const focused = document.activeElement;
  children.forEach((child, index) => {
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
  });
  if (parent.contains(focused) && focused !== document.activeElement) focused.focus({ preventScroll: true });
}
