// What a checker of accessibility would find first. Runs within the page.

// Returns what is wrong: controls without a name, text that is hard to read, ids that occur twice, a page that scrolls sideways.
export function violations() {
  const found = [];
  const isShown = element => element.checkVisibility({opacityProperty: true, visibilityProperty: true});
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});

  // Any CSS colour as red, green, blue and opacity.
  function rgba(colour) {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
    return [red, green, blue, alpha / 255];
  }

  function luminance(colour) {
    const [red, green, blue] = colour.map(part => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  }

  function groundOf(element) {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3] === 1) return colour;
    }
    return [255, 255, 255, 1];
  }

  function contrast(element, pseudo) {
    const [one, two] = [rgba(getComputedStyle(element, pseudo).color), groundOf(element)].map(luminance);
    return (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
  }

  function nameOf(element) {
    const labels = [...(element.labels || [])].map(label => label.textContent);
    return [element.getAttribute("aria-label"), ...labels, element.textContent].find(text => text && text.trim());
  }

  for (const element of document.querySelectorAll("button, a, input, select, textarea, [role=img], [role=region]")) {
    if (isShown(element) && !nameOf(element)) found.push(`no name: ${element.outerHTML.slice(0, 120)}`);
  }
  for (const element of document.querySelectorAll("body *")) {
    const hasText = [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim());
    const isRead = hasText && isShown(element) && !element.closest(".sr, .skip, script, option, :disabled");
    if (isRead && contrast(element) < 4.5) found.push(`contrast ${contrast(element).toFixed(2)}: ${element.outerHTML.slice(0, 120)}`);
    if (element.placeholder && isShown(element) && contrast(element, "::placeholder") < 4.5) found.push(`placeholder: ${element.id}`);
  }
  const ids = [...document.querySelectorAll("[id]")].map(({id}) => id);
  found.push(...ids.filter((id, index) => ids.indexOf(id) !== index).map(id => `twice: ${id}`));
  if (document.documentElement.scrollWidth > innerWidth) found.push("scrolls sideways");
  if (!document.documentElement.lang || !document.title) found.push("no language or title");
  if (document.querySelectorAll("h1").length !== 1 || document.querySelectorAll("main").length !== 1) found.push("landmarks");
  return found;
}
