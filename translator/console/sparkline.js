// A small chart of the last minute.

const NUM_POINTS = 60;

class Sparkline {
  // `names` are the classes of its lines; the first one is filled.
  constructor(label, names) {
    this.series = names.map(() => []);
    this.area = drawn("path", {class: `area ${names[0]}`});
    this.lines = names.map(name => drawn("path", {class: `line ${name}`}));
    this.element = drawn("svg", {class: "sparkline", viewBox: `0 0 ${NUM_POINTS - 1} 30`, preserveAspectRatio: "none",
      role: "img", "aria-label": label}, this.area, ...this.lines.toReversed());
  }

  push(...values) {
    this.series.forEach((points, index) => {
      points.push(values[index]);
      if (points.length > NUM_POINTS) points.shift();
    });
    const top = Math.max(1, ...this.series.flat());
    const paths = this.series.map(points => {
      const first = NUM_POINTS - points.length;
      return points.map((value, index) => `${index ? "L" : "M"}${first + index} ${(28 - 26 * value / top).toFixed(2)}`).join("");
    });
    paths.forEach((path, index) => this.lines[index].setAttribute("d", path));
    const first = NUM_POINTS - this.series[0].length;
    this.area.setAttribute("d", `${paths[0]}L${NUM_POINTS - 1} 30L${first} 30Z`);
  }
}
