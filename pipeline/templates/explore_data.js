"use strict";
// The data of the page: packed arrays, and the questions that they answer. Nothing in here touches what is shown.
//
// Items stand in the order of their codes, so that a prefix is a stretch of them, [begin, end); those without a Semantic ID come last.
// A node is a prefix: {length, index, begin, end}, the index being its number among the prefixes of its length.

const meta = JSON.parse(document.getElementById("meta").textContent);

async function unpacked(name) {
  const holder = document.getElementById("data-" + name);
  if (!holder) return null;
  const packed = Uint8Array.fromBase64
    ? Uint8Array.fromBase64(holder.textContent)
    : Uint8Array.from(atob(holder.textContent), (character) => character.charCodeAt(0));
  const kind = holder.dataset.kind;
  holder.remove(); // its text is as large as the data
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  return kind === "text" ? new Lines(new TextDecoder().decode(buffer)) : new globalThis[kind](buffer);
}

// 0 and the running sums.
function summed(values, kind) {
  const sums = new kind(values.length + 1);
  for (let i = 0; i < values.length; i++) sums[i + 1] = sums[i] + values[i];
  return sums;
}

// The first index in [low, high) whose value is at least `wanted`, or `high`; values ascend.
function firstAtLeast(values, wanted, low, high) {
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (values[middle] < wanted) low = middle + 1;
    else high = middle;
  }
  return low;
}

// One line of text per item, searched as a whole: a million short strings would be slower and larger.
class Lines {
  constructor(text) {
    this.text = text;
    this.starts = Lines.startsOf(text);
  }
  static startsOf(text) {
    const starts = [0];
    for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1)) starts.push(at + 1);
    starts.push(text.length + 1);
    return Float64Array.from(starts);
  }
  at(item) {
    return this.text.slice(this.starts[item], this.starts[item + 1] - 1);
  }
  // Items whose line has the words in this order and spelling, without regard to case: those that begin with it, and the others.
  find(query) {
    if (this.lower === undefined) {
      this.lower = this.text.toLowerCase();
      // Some letters are longer in lower case, and then lines begin elsewhere.
      this.lowerStarts = this.lower.length === this.text.length ? this.starts : Lines.startsOf(this.lower);
    }
    const wanted = query.toLowerCase(), beginning = [], inside = [], starts = this.lowerStarts;
    let item = 0;
    for (let at = this.lower.indexOf(wanted); at >= 0; at = this.lower.indexOf(wanted, starts[item])) {
      item = firstAtLeast(starts, at + 1, item, starts.length) - 1;
      (at === starts[item] ? beginning : inside).push(item);
      if (++item + 1 >= starts.length) break;
    }
    return { beginning, inside };
  }
}

const data = {};

async function load() {
  const named = async (name) => { data[name] = await unpacked(name); };
  data.lengths = [];
  for (let length = 0; length <= meta.levels; length++) {
    const [codes, sizes, cosines, rows] = await Promise.all(
      ["codes", "sizes", "cosines", "rows"].map((name) => unpacked(`${name}-${length}`)));
    data.lengths.push({ codes, starts: sizes && summed(sizes, Uint32Array), cosines, rows });
  }
  await Promise.all(["impressions", "clicks", "ids", "names", "originals"].map(named));
  data.coded = data.lengths[1].starts.at(-1); // items with a Semantic ID
  data.lengths[0].starts = Uint32Array.of(0, data.coded);
  if (data.impressions) {
    data.impressionSums = summed(data.impressions, Float64Array);
    data.clickSums = summed(data.clicks, Float64Array);
  }
}

function node(length, index) {
  const starts = data.lengths[length].starts;
  return { length, index, begin: starts[index], end: starts[index + 1] };
}

// The node of a prefix length that an item lies in.
function nodeOf(item, length) {
  const starts = data.lengths[length].starts;
  return node(length, firstAtLeast(starts, item + 1, 0, starts.length) - 1);
}

function children(parent) {
  if (parent.length === meta.levels) return [];
  const starts = data.lengths[parent.length + 1].starts, found = [];
  for (let index = firstAtLeast(starts, parent.begin, 0, starts.length); starts[index] < parent.end; index++) {
    found.push(node(parent.length + 1, index));
  }
  return found;
}

function codesOf(prefix) {
  return Array.from({ length: prefix.length }, (_, level) => {
    const above = nodeOf(prefix.begin, level + 1);
    return data.lengths[level + 1].codes[above.index];
  });
}

// The node of a prefix given by its codes, or null.
function nodeWith(codes) {
  let found = node(0, 0);
  for (const code of codes) {
    if (found.length === meta.levels) return null;
    const level = data.lengths[found.length + 1];
    const first = firstAtLeast(level.starts, found.begin, 0, level.starts.length);
    const last = firstAtLeast(level.starts, found.end, first, level.starts.length);
    const index = firstAtLeast(level.codes, code, first, last);
    if (index === last || level.codes[index] !== code) return null;
    found = node(found.length + 1, index);
  }
  return found;
}

function itemWith(id) {
  return data.ids.indexOf(id);
}

function isCoded(item) {
  return item < data.coded;
}

// What is known of a stretch of items.
function shown(begin, end) {
  if (!data.impressions) return null;
  const impressions = data.impressionSums[end] - data.impressionSums[begin];
  const clicks = data.clickSums[end] - data.clickSums[begin];
  return { impressions, clicks, rate: impressions ? clicks / impressions : null };
}

function cosine(prefix) {
  const value = data.lengths[prefix.length].cosines?.[prefix.index];
  return value === undefined || value === meta.noCosine ? null : value * meta.cosineUnit;
}

function tableRow(prefix) {
  return data.lengths[prefix.length].rows?.[prefix.index] ?? null;
}

// Other prefixes that use the same table row, of any length.
function sameRow(prefix) {
  const row = tableRow(prefix), found = [];
  for (let length = 1; length <= meta.depth; length++) {
    const rows = data.lengths[length].rows;
    for (let index = rows.indexOf(row); index >= 0; index = rows.indexOf(row, index + 1)) {
      if (length !== prefix.length || index !== prefix.index) found.push(node(length, index));
    }
  }
  return found;
}

// Items by impressions, most first, else in the order given. One number holds impressions and place, since numbers alone sort fast.
function mostShown(items) {
  if (!data.impressions) return items;
  const count = items.length, most = Math.floor(2 ** 53 / (count + 1)) - 1;
  const keys = Float64Array.from(items, (item, place) => Math.min(data.impressions[item], most) * count + (count - 1 - place)).sort();
  return Array.from({ length: count }, (_, place) => items[count - 1 - (keys[count - 1 - place] % count)]);
}

function stretch(begin, end) {
  return Array.from({ length: end - begin }, (_, place) => begin + place);
}

// A prefix and items that a query names: by id, by code, or by a part of their text.
function search(query) {
  const items = new Set();
  if (/^-?\d{1,19}$/.test(query)) {
    const item = itemWith(BigInt(query));
    if (item >= 0) items.add(item);
  }
  for (const lines of [data.originals, data.names]) {
    const { beginning, inside } = lines ? lines.find(query) : { beginning: [], inside: [] };
    for (const item of mostShown(beginning)) items.add(item);
    for (const item of mostShown(inside)) items.add(item);
  }
  const prefix = /^\d{1,5}(-\d{1,5})*$/.test(query) ? nodeWith(query.split("-").map(Number)) : null;
  return { prefix, items: [...items] };
}
