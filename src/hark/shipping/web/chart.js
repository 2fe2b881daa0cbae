/** Colours of page.css, one for each curve; more curves begin anew. */
const CURVES = ["--accent", "--second", "--third"];
const MARGIN = { left: 30, right: 8, top: 8, bottom: 22 };

/** The CSS colour of a curve. */
export function curveColour(index) {
  return `var(${CURVES[index % CURVES.length]})`;
}

/**
 * Draws the newest scores, from 0 to 1 over the last seconds, and the threshold. Filled points are detections.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {{ scores: { score: number, isDetection: boolean }[] }[]} curves the newest score last.
 * @param {{ threshold: number, stepS: number, seconds: number }} scale
 */
export function drawScores(canvas, curves, { threshold, stepS, seconds }) {
  const { pen, width, height } = cleared(canvas);
  const colour = (name) => getComputedStyle(canvas).getPropertyValue(name);
  const x = (agoS) => width - MARGIN.right - (agoS / seconds) * (width - MARGIN.left - MARGIN.right);
  const y = (score) => MARGIN.top + (1 - score) * (height - MARGIN.top - MARGIN.bottom);
  pen.font = `12px ${getComputedStyle(canvas).fontFamily}`;
  pen.fillStyle = colour("--muted");
  for (const score of [0, 0.5, 1]) {
    line(pen, colour("--rule"), [[x(seconds), y(score)], [x(0), y(score)]]);
    pen.fillText(score, 2, y(score) + 4);
  }
  pen.fillText(`${seconds} s ago`, MARGIN.left, height - 5);
  pen.fillText("now", width - MARGIN.right - pen.measureText("now").width, height - 5);
  pen.setLineDash([6, 4]);
  line(pen, colour("--threshold"), [[x(seconds), y(threshold)], [x(0), y(threshold)]]);
  pen.setLineDash([]);
  curves.forEach(({ scores }, index) => {
    const points = scores.map(({ score }, place) => [x((scores.length - 1 - place) * stepS), y(score)]);
    const inside = points.filter(([left]) => left >= MARGIN.left);
    line(pen, colour(CURVES[index % CURVES.length]), inside, 2);
    pen.fillStyle = colour(CURVES[index % CURVES.length]);
    points.forEach(([left, top], place) => {
      if (scores[place].isDetection && left >= MARGIN.left) dot(pen, left, top);
    });
  });
}

/** An empty canvas with as many pixels as the screen has, and a pen that counts in CSS pixels. */
function cleared(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  canvas.width = Math.round(width * devicePixelRatio);
  canvas.height = Math.round(height * devicePixelRatio);
  const pen = canvas.getContext("2d");
  pen.scale(devicePixelRatio, devicePixelRatio);
  return { pen, width, height };
}

function line(pen, colour, points, width = 1) {
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.beginPath();
  for (const [x, y] of points) pen.lineTo(x, y);
  pen.stroke();
}

function dot(pen, x, y) {
  pen.beginPath();
  pen.arc(x, y, 5, 0, 2 * Math.PI);
  pen.fill();
}
