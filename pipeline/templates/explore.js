// What is shown beside the tree: a prefix or an item, told by the address after its #, and what a search finds.

const SAMPLE = 6;
const byId = (id) => document.getElementById(id);

function addressOf(prefix) {
  return codesOf(prefix).join("-") || "all";
}

function prefixLink(prefix, text = prefixName(prefix)) {
  return make("a", { href: `#${addressOf(prefix)}` }, text);
}

function itemLink(item) {
  return make("a", { href: `#item=${data.ids[item]}` }, nameOf(item));
}

function fact(term, ...values) {
  return values.every((value) => value === null) ? [] : [make("dt", {}, term), make("dd", {}, ...values.filter((value) => value !== null))];
}

function cells(tag, ...values) {
  return make("tr", {}, ...values.map((value, place) => make(place ? tag : "th", { scope: tag === "th" ? "col" : place ? null : "row" }, value)));
}

// A list of items, a page at a time.
function itemList(items) {
  const list = make("ol", { class: "items" }), more = make("button", { type: "button" });
  const draw = () => {
    const drawn = list.childElementCount;
    for (const item of items.slice(drawn, drawn + PAGE)) {
      const found = shown(item, item + 1);
      const note = found ? `${whole.format(found.impressions)} shown, ${percent(found.rate)}` : String(data.ids[item]);
      list.append(make("li", {}, itemLink(item), make("span", { class: "muted" }, note)));
    }
    const left = items.length - list.childElementCount;
    more.textContent = `${whole.format(Math.min(PAGE, left))} more of ${whole.format(left)}`;
    more.hidden = left === 0;
    if (drawn) list.children[drawn].firstElementChild.focus();
  };
  more.addEventListener("click", draw);
  draw();
  return [list, more];
}

function rateFacts(found) {
  if (!found) return [];
  return [
    ...fact("Impressions", whole.format(found.impressions)),
    ...fact("Clicks", whole.format(found.clicks)),
    ...fact("Click rate", percent(found.rate, 2)),
  ];
}

// Links to the other prefixes that use the same table row, the first few of them.
function others(prefix) {
  const same = sameRow(prefix), told = make("span");
  same.slice(0, 3).forEach((each, place) => told.append(place ? ", " : "", prefixLink(each)));
  if (same.length > 3) told.append(` and ${counted(same.length - 3, "other")}`);
  return same.length ? told : null;
}

function way(prefix) {
  const steps = make("nav", { "aria-label": "the way to this prefix", class: "way" });
  for (let length = 0; length < prefix.length; length++) {
    steps.append(prefixLink(length ? nodeOf(prefix.begin, length) : node(0, 0)), " › ");
  }
  if (prefix.length) steps.append(prefixName(prefix));
  return steps;
}

function aboutPrefix(prefix) {
  const count = prefix.end - prefix.begin, below = children(prefix), row = tableRow(prefix);
  const facts = make("dl", {},
    ...fact("Items", `${whole.format(count)}, ${percent(count / data.coded, 2)} of all`),
    ...rateFacts(shown(prefix.begin, prefix.end)),
    ...fact("Cosine of two of its items", data.lengths[0].cosines && decimal(cosine(prefix))),
    ...fact("Table row", row === null ? null : whole.format(row)),
    ...fact("used also by", row === null ? null : others(prefix)),
    ...fact("Codes of the next level in use", below.length ? `${whole.format(below.length)} of ${whole.format(meta.codebookSize)}` : null));
  const step = count / Math.min(SAMPLE, count);
  const sample = Array.from({ length: Math.min(SAMPLE, count) }, (_, place) => prefix.begin + Math.floor(place * step));
  const list = make("ul", { class: "sample" }, ...sample.map((item) => make("li", {}, itemLink(item))));
  const heading = data.impressions ? "Items, most shown first" : "Items";
  return [
    way(prefix),
    make("h2", { tabindex: "-1" }, prefix.length ? `Prefix ${prefixName(prefix)}` : "All items"),
    facts,
    ...(count > SAMPLE ? [make("h3", {}, "A sample, evenly from its codes"), list] : []),
    make("h3", {}, heading),
    ...itemList(mostShown(stretch(prefix.begin, prefix.end))),
  ];
}

function aboutItem(item) {
  const found = shown(item, item + 1), parts = [make("h2", { tabindex: "-1" }, nameOf(item))];
  const facts = make("dl", {}, ...fact("Item id", String(data.ids[item])), ...fact("Original id", data.originals?.at(item) || null));
  parts.push(facts);
  if (!isCoded(item)) {
    facts.append(...rateFacts(found));
    parts.push(make("p", {}, `It has no Semantic ID, and takes the table row of all such items, ${whole.format(BigInt(meta.unknownRow))}.`));
    return parts;
  }
  const nodes = Array.from({ length: meta.levels }, (_, level) => nodeOf(item, level + 1));
  facts.append(...fact("Semantic ID", prefixLink(nodes.at(-1))), ...rateFacts(found));
  parts.push(make("h3", {}, "Its prefixes"), make("div", { class: "wide" }, prefixTable(nodes)), ...crowded(nodes), ...mates(item, nodes));
  return parts;
}

function prefixTable(nodes) {
  const head = ["prefix", "table row", "items"];
  if (data.impressions) head.push("impressions", "click rate");
  if (data.lengths[0].cosines) head.push("cosine");
  const rows = nodes.map((each) => {
    const found = shown(each.begin, each.end), row = tableRow(each);
    const values = [prefixLink(each), row === null ? "–" : whole.format(row), whole.format(each.end - each.begin)];
    if (found) values.push(whole.format(found.impressions), percent(found.rate));
    if (data.lengths[0].cosines) values.push(decimal(cosine(each)));
    return cells("td", ...values);
  });
  return make("table", { id: "prefixes" }, make("thead", {}, cells("th", ...head)), make("tbody", {}, ...rows));
}

// Which of the rows other prefixes use too.
function crowded(nodes) {
  const used = nodes.filter((each) => tableRow(each) !== null).map((each) => [tableRow(each), others(each)]);
  return used.filter(([, same]) => same).map(([row, same]) => make("p", { class: "row" }, `Row ${whole.format(row)} is also used by `, same, "."));
}

// The other items of each prefix that are not in a longer one.
function mates(item, nodes) {
  const parts = [];
  for (const [place, each] of [...nodes.entries()].reverse()) {
    const inner = nodes[place + 1] ?? { begin: item, end: item + 1 };
    const items = mostShown([...stretch(each.begin, inner.begin), ...stretch(inner.end, each.end)]);
    const others = items.length ? counted(items.length, "other item") : "No other item";
    const what = each.length < meta.levels ? `only ${prefixName(each)}` : prefixName(each);
    const text = `${others} ${items.length > 1 ? "share" : "shares"} ${what} with it`;
    parts.push(make("h3", {}, text), ...(items.length ? itemList(items) : []));
  }
  return parts;
}

function show(parts) {
  byId("shown").replaceChildren(...parts);
  byId("shown").scrollTop = 0;
}

// What the address asks for; all items where there is no such thing.
function showAddress(tree) {
  const asked = decodeURIComponent(location.hash.slice(1));
  const item = /^item=-?\d{1,19}$/.test(asked) ? itemWith(BigInt(asked.slice(5))) : -1;
  if (item >= 0) {
    if (isCoded(item)) tree.reveal(nodeOf(item, meta.levels)).firstElementChild.scrollIntoView({ block: "nearest" });
    show(aboutItem(item));
    return;
  }
  const found = (/^\d+(-\d+)*$/.test(asked) && nodeWith(asked.split("-").map(Number))) || node(0, 0);
  tree.reveal(found).firstElementChild.scrollIntoView({ block: "nearest" });
  show(aboutPrefix(found));
}

function showFound(query) {
  const results = byId("results");
  results.replaceChildren();
  byId("searched").textContent = "";
  if (!query) return;
  const { prefix, items } = search(query);
  const told = [prefix ? `prefix ${query}` : null, items.length ? counted(items.length, "item") : null].filter(Boolean);
  const cut = meta.namesCut ? `; the names of ${counted(meta.namesCut, "item")} are not in this page` : "";
  byId("searched").textContent = (told.join(" and ") || "nothing found") + cut;
  if (prefix) results.append(make("p", {}, prefixLink(prefix, `Prefix ${query}`)));
  if (items.length) results.append(...itemList(items));
}

function listenToSearch() {
  const input = byId("query"), results = byId("results");
  let waiting;
  const now = () => { clearTimeout(waiting); waiting = undefined; showFound(input.value.trim()); };
  input.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(now, 150); });
  byId("search").addEventListener("submit", (event) => {
    event.preventDefault();
    if (waiting !== undefined) now();
    results.querySelector("a")?.click();
  });
  byId("search").addEventListener("keydown", (event) => {
    if (event.key === "Escape") { input.value = ""; now(); input.focus(); return; }
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    const stops = [input, ...results.querySelectorAll("a")], at = stops.indexOf(document.activeElement);
    event.preventDefault();
    stops[Math.max(0, Math.min(stops.length - 1, at + (event.key === "ArrowDown" ? 1 : -1)))].focus();
  });
  // A result that is opened takes the place of the list.
  results.addEventListener("click", (event) => { if (event.target.closest("a")) { results.replaceChildren(); byId("searched").textContent = ""; } });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.matches("input, select")) return;
    event.preventDefault();
    input.focus();
    input.select();
  });
}

async function start() {
  await load();
  const tree = new Tree(byId("tree"), (prefix) => {
    history.replaceState(null, "", `#${addressOf(prefix)}`);
    show(aboutPrefix(prefix));
  });
  byId("order").addEventListener("change", (event) => tree.sort(event.target.value));
  listenToSearch();
  showAddress(tree);
  addEventListener("hashchange", () => {
    showAddress(tree);
    byId("shown").querySelector("h2").focus({ preventScroll: true });
    const { top } = byId("shown").getBoundingClientRect();
    if (top < 0 || top > 0.6 * innerHeight) byId("shown").scrollIntoView();
  });
  byId("explorer").hidden = false;
  byId("loading").remove();
  document.body.dataset.ready = "";
}

start().catch((error) => {
  byId("loading").textContent = `The page cannot be shown: ${error.message}. It needs a browser of 2023 or later.`;
  throw error;
});
