// A list of any length on the page: only what is seen, and a little more, is there.

import { h } from "./dom.js";

const BEYOND = 3; // rows drawn above and below what is seen

/**
 * Cells in rows, as a list. `cell(index)` makes one, `reach(first, last)` is told what is
 * looked at, `least` and `height` are a cell's pixels. `size(total)` sets how many there are.
 */
export class VirtualGrid {
  constructor({ least, height, gap, label, cell, reach, signal }) {
    Object.assign(this, { least, height, gap, cell, reach });
    this.node = h("ul", { class: "virtual", "aria-label": label });
    this.cells = new Map(); // index → its element
    this.total = 0;
    this.columns = 1;
    const later = () => {
      this.frame ??= requestAnimationFrame(() => {
        this.frame = null;
        this.draw();
      });
    };
    addEventListener("scroll", later, { signal, passive: true });
    const watch = new ResizeObserver(later);
    watch.observe(this.node);
    signal.addEventListener("abort", () => watch.disconnect());
    this.node.addEventListener("keydown", (event) => this.moved(event));
  }

  size(total) {
    this.total = total;
    this.draw();
  }

  /** Draw everything anew, since what the cells show has changed. */
  renew() {
    const focused = this.focused();
    for (const node of this.cells.values()) node.remove();
    this.cells.clear();
    this.draw();
    if (focused !== null) this.focus(Math.min(focused, this.total - 1));
  }

  draw() {
    const width = this.node.clientWidth;
    if (!width) return;
    const columns = Math.max(1, Math.floor((width + this.gap) / (this.least + this.gap)));
    const rows = Math.ceil(this.total / columns);
    const pitch = this.height + this.gap;
    this.node.style.height = `${Math.max(0, rows * pitch - this.gap)}px`;
    const top = -this.node.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(top / pitch) - BEYOND) * columns;
    const last = Math.min(this.total,
      (Math.ceil((top + innerHeight) / pitch) + BEYOND) * columns);
    const focused = this.focused();
    const laid = columns !== this.columns || width !== this.width;
    [this.columns, this.width] = [columns, width];
    for (const [index, node] of this.cells) {
      if ((index < first || index >= last) && index !== focused) {
        node.remove();
        this.cells.delete(index);
      } else if (laid) {
        this.place(index, node);
      }
    }
    for (let index = first; index < last; index++) if (!this.cells.has(index)) this.add(index);
    if (last > first) this.reach(first, last - 1);
  }

  /** Draw one again, or for the first time; it stays in the order of the list. */
  add(index) {
    const node = h("li", { "aria-setsize": this.total, "aria-posinset": index + 1,
      data: { index } }, this.cell(index));
    this.place(index, node);
    const old = this.cells.get(index);
    this.cells.set(index, node);
    if (old) {
      old.replaceWith(node);
      if (index === this.sought && this.focused() !== null) this.focus(index); // still in the list
      return;
    }
    let before = null; // readers and the tab key follow the order of the elements
    for (const other of this.node.children) {
      if (Number(other.dataset.index) > index) {
        before = other;
        break;
      }
    }
    this.node.insertBefore(node, before);
  }

  place(index, node) {
    const cell = (this.width - this.gap * (this.columns - 1)) / this.columns;
    const x = (index % this.columns) * (cell + this.gap);
    const y = Math.floor(index / this.columns) * (this.height + this.gap);
    node.style.width = `${cell}px`;
    node.style.height = `${this.height}px`;
    node.style.transform = `translate(${x}px, ${y}px)`;
  }

  focused() {
    const cell = document.activeElement?.closest?.("li[data-index]");
    return cell && this.node.contains(cell) ? Number(cell.dataset.index) : null;
  }

  /** Move the focus to a cell's link, which is scrolled to. */
  focus(index) {
    if (index < 0) return;
    const pitch = this.height + this.gap;
    const y = this.node.getBoundingClientRect().top + Math.floor(index / this.columns) * pitch;
    if (y < 80) scrollBy(0, y - 80);
    else if (y + pitch > innerHeight - 90) scrollBy(0, y + pitch - innerHeight + 90);
    this.draw();
    const link = this.cells.get(index)?.querySelector("a");
    this.sought = link ? null : index; // it is not known yet: once it is
    link?.focus({ preventScroll: true });
  }

  /** Arrow keys, Home and End go from cell to cell. */
  moved(event) {
    const from = this.focused();
    if (from === null || event.altKey || event.ctrlKey || event.metaKey) return;
    const to = {
      ArrowLeft: from - 1, ArrowRight: from + 1,
      ArrowUp: from - this.columns, ArrowDown: from + this.columns,
      Home: 0, End: this.total - 1,
    }[event.key];
    if (to === undefined || to < 0 || to >= this.total) return;
    event.preventDefault();
    this.focus(to);
  }
}
