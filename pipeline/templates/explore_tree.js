// The tree of prefixes, by the ARIA pattern for trees: one stop of the tab key, arrows to walk, a page of children at a time.

const PAGE = 50;

const whole = new Intl.NumberFormat("en");
const percent = (share, digits = 1) => (share === null ? "–" : (100 * share).toFixed(digits) + "%");
const decimal = (value) => (value === null ? "–" : value.toFixed(2));
const counted = (count, word) => `${whole.format(count)} ${word}${count === 1 ? "" : word === "prefix" ? "es" : "s"}`;

// An element; what is untrusted comes in as text alone.
function make(tag, attributes = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(name, value);
  made.append(...inside);
  return made;
}

function nameOf(item) {
  return data.names?.at(item) || data.originals?.at(item) || `item ${data.ids[item]}`;
}

function prefixName(prefix) {
  return prefix.length ? codesOf(prefix).join("-") : "all items";
}

// The most shown item of a stretch, the first one where nothing was shown.
function mostShownOf(prefix) {
  let best = prefix.begin;
  if (data.impressions) for (let i = best + 1; i < prefix.end; i++) if (data.impressions[i] > data.impressions[best]) best = i;
  return best;
}

const ORDERS = {
  items: (prefix) => -(prefix.end - prefix.begin),
  impressions: (prefix) => -(shown(prefix.begin, prefix.end)?.impressions ?? 0),
  rate: (prefix) => -(shown(prefix.begin, prefix.end)?.rate ?? -1),
  cosine: (prefix) => cosine(prefix) ?? 2,
  code: (prefix) => prefix.index,
};

class Tree {
  // `element` is the list with role tree; `onSelect` is told the node that is chosen.
  constructor(element, onSelect) {
    this.element = element;
    this.onSelect = onSelect;
    this.order = "items";
    element.parentElement.style.setProperty("--levels", meta.levels);
    element.addEventListener("keydown", (event) => this.#key(event));
    element.addEventListener("click", (event) => this.#click(event));
    this.#start();
  }

  sort(order) {
    const selected = this.selected.node;
    this.order = order;
    this.#start();
    this.reveal(selected);
  }

  // Open the way to a node and select it.
  reveal(prefix) {
    let row = this.root;
    for (let length = 1; length <= prefix.length; length++) {
      this.#open(row);
      const wanted = nodeOf(prefix.begin, length).index, place = row.below.findIndex((child) => child.index === wanted);
      while (row.group.drawn <= place) this.#draw(row);
      row = row.group.children[place];
    }
    this.#select(row);
    return row;
  }

  #start() {
    this.element.replaceChildren();
    this.root = this.#row(node(0, 0), 1, 1, data.coded);
    this.element.append(this.root);
    this.#open(this.root);
    this.#select(this.root);
  }

  // `most` is the number of items that fills the bar.
  #row(prefix, place, of, most) {
    const [items, found, alike] = [prefix.end - prefix.begin, shown(prefix.begin, prefix.end), cosine(prefix)];
    const code = prefix.length ? String(data.lengths[prefix.length].codes[prefix.index]) : "all";
    const bar = make("span", { class: "share", "aria-hidden": "true" }, make("span"));
    bar.firstChild.style.width = `${(100 * items) / most}%`;
    const label = [prefix.length ? `prefix ${prefixName(prefix)}` : "all items", counted(items, "item")];
    if (found) label.push(`click rate ${percent(found.rate)}`);
    if (data.lengths[0].cosines) label.push(`cosine ${decimal(alike)}`);
    const line = make("div", { class: "line" },
      make("span", { class: "code" }, code), bar, make("span", { class: "items" }, whole.format(items)));
    if (found) line.append(make("span", { class: "rate" }, percent(found.rate)));
    if (data.lengths[0].cosines) line.append(make("span", { class: "cosine" }, decimal(alike)));
    if (data.names) line.append(make("span", { class: "name" }, nameOf(mostShownOf(prefix))));
    const row = make("li", {
      role: "treeitem", tabindex: "-1", "aria-label": label.join(", "), "aria-selected": "false", "aria-level": prefix.length + 1,
      "aria-posinset": place, "aria-setsize": of, "aria-expanded": prefix.length < meta.levels ? "false" : null,
    }, line);
    row.style.setProperty("--depth", prefix.length);
    row.node = prefix;
    return row;
  }

  #open(row) {
    if (!row.node || row.node.length === meta.levels) return;
    if (!row.group) {
      const rank = ORDERS[this.order];
      row.below = children(row.node).map((child) => [rank(child), child]).sort((a, b) => a[0] - b[0]).map(([, child]) => child);
      row.most = row.below.reduce((most, child) => Math.max(most, child.end - child.begin), 0);
      row.group = make("ul", { role: "group" });
      row.group.drawn = 0;
      this.#draw(row);
      row.append(row.group);
    }
    row.group.hidden = false;
    row.setAttribute("aria-expanded", "true");
  }

  #close(row) {
    row.group.hidden = true;
    row.setAttribute("aria-expanded", "false");
  }

  // Add the next page of children, and a last row that asks for more.
  #draw(row) {
    row.group.querySelector(":scope > .more")?.remove();
    const first = row.group.drawn, last = Math.min(first + PAGE, row.below.length);
    for (let place = first; place < last; place++) row.group.append(this.#row(row.below[place], place + 1, row.below.length, row.most));
    row.group.drawn = last;
    if (last === row.below.length) return;
    const text = `${Math.min(PAGE, row.below.length - last)} more of ${whole.format(row.below.length - last)}`;
    const more = make("li", { role: "treeitem", class: "more", tabindex: "-1", "aria-level": row.node.length + 2 },
      make("div", { class: "line" }, text));
    more.style.setProperty("--depth", row.node.length + 1);
    more.more = () => { this.#draw(row); this.#focus(row.group.children[first + PAGE]); };
    row.group.append(more);
  }

  #focus(row) {
    if (row.more) this.#stop(row);
    else { this.#select(row); this.onSelect(row.node); }
    row.focus({ preventScroll: true });
    row.firstElementChild.scrollIntoView({ block: "nearest" });
  }

  #select(row) {
    this.selected?.setAttribute("aria-selected", "false");
    row.setAttribute("aria-selected", "true");
    this.selected = row;
    this.#stop(row);
  }

  // The row at which the tab key stops.
  #stop(row) {
    this.stopped?.setAttribute("tabindex", "-1");
    row.setAttribute("tabindex", "0");
    this.stopped = row;
  }

  #click(event) {
    const row = event.target.closest("[role=treeitem]");
    if (!row) return;
    if (row.more) return row.more();
    this.#focus(row);
    this.#toggle(row);
  }

  #toggle(row) {
    if (row.getAttribute("aria-expanded") === "true") this.#close(row);
    else this.#open(row);
  }

  #key(event) {
    const row = event.target.closest("[role=treeitem]");
    if (!row || event.ctrlKey || event.altKey || event.metaKey) return;
    const expanded = row.getAttribute("aria-expanded");
    const steps = {
      ArrowDown: () => this.#after(row),
      ArrowUp: () => this.#before(row),
      ArrowRight: () => (expanded === "false" ? this.#open(row) : expanded === "true" ? row.group.firstElementChild : null),
      ArrowLeft: () => (expanded === "true" ? this.#close(row) : row.parentElement.closest("[role=treeitem]")),
      Home: () => this.root,
      End: () => this.#lastIn(this.root),
      Enter: () => (row.more ? row.more() : this.#toggle(row)),
      " ": () => (row.more ? row.more() : this.#toggle(row)),
    };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const next = steps[event.key]();
    if (next) this.#focus(next);
  }

  #lastIn(row) {
    while (row.getAttribute("aria-expanded") === "true") row = row.group.lastElementChild;
    return row;
  }

  #after(row) {
    if (row.getAttribute("aria-expanded") === "true") return row.group.firstElementChild;
    while (row && !row.nextElementSibling) row = row.parentElement.closest("[role=treeitem]");
    return row?.nextElementSibling ?? null;
  }

  #before(row) {
    return row.previousElementSibling ? this.#lastIn(row.previousElementSibling) : row.parentElement.closest("[role=treeitem]");
  }
}
