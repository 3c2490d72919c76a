//! What the charts are drawn with: shapes in pixels, which become an SVG document or a PNG file.

use std::io::Cursor;

use image::{ImageFormat, RgbImage, imageops};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontDesc, FontFamily, FontTransform, register_font};

use super::palette::Palette;
use crate::failure::Failure;

/// A list, because plotters writes the name into the SVG as it is, for browsers without the first.
const FAMILY: &str = "DejaVu Sans, Verdana, sans-serif";
/// DejaVu's height from ascent to descent, in ems: what plotters takes for the size of a bitmap's letters.
const LETTERS: f64 = 1.164;
/// What plotters takes an em to be, in sizes, in an SVG.
const SVG_LETTERS: f64 = 1.24;
/// A PNG is drawn this much larger and then averaged: plotters smooths neither thick lines nor polygons.
const OVERSAMPLING: u32 = 3;
/// Part of an advance that a browser's other typeface may be wider than DejaVu.
const WIDER: f64 = 1.03;

/// A place, in pixels from the upper left corner.
pub(super) type Spot = (f64, f64);

/// A box, in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rect {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
}

impl Rect {
    /// Whether the two are closer than `gap`.
    pub(super) fn is_near(&self, other: &Self, gap: f64) -> bool {
        self.left < other.right + gap
            && other.left < self.right + gap
            && self.top < other.bottom + gap
            && other.top < self.bottom + gap
    }

    /// Whether the other is inside.
    pub(super) fn contains(&self, other: &Self) -> bool {
        other.left >= self.left
            && other.right <= self.right
            && other.top >= self.top
            && other.bottom <= self.bottom
    }

    /// The box without its rim.
    pub(super) fn inset(&self, by: f64) -> Self {
        Self { left: self.left + by, top: self.top + by, right: self.right - by, bottom: self.bottom - by }
    }

    /// The place in the box that is nearest.
    pub(super) fn nearest(&self, (x, y): Spot) -> Spot {
        (x.clamp(self.left, self.right), y.clamp(self.top, self.bottom))
    }
}

/// How words are written.
#[derive(Clone, Copy)]
pub(super) struct Pen {
    /// Pixels of an em.
    pub(super) size: f64,
    pub(super) color: RGBColor,
    pub(super) bold: bool,
    pub(super) anchor: HPos,
    /// From the bottom to the top.
    pub(super) upward: bool,
}

impl Pen {
    /// Left-aligned, from left to right.
    pub(super) fn new(size: f64, color: RGBColor) -> Self {
        Self { size, color, bold: false, anchor: HPos::Left, upward: false }
    }

    pub(super) fn bold(self) -> Self {
        Self { bold: true, ..self }
    }

    pub(super) fn centered(self) -> Self {
        Self { anchor: HPos::Center, ..self }
    }

    pub(super) fn right(self) -> Self {
        Self { anchor: HPos::Right, ..self }
    }

    pub(super) fn upward(self) -> Self {
        Self { upward: true, ..self }
    }

    /// From the middle of its capitals down to the line they stand on.
    pub(super) fn half_height(self) -> f64 {
        self.size * 0.365
    }

    /// How wide the words become.
    pub(super) fn width(self, words: &str) -> f64 {
        // Measured large: plotters rounds to whole pixels.
        let font = FontDesc::new(FontFamily::Name(FAMILY), LETTERS * 1000.0, self.style());
        let wide =
            font.layout_box(words).map_or(600.0 * words.chars().count() as f64, |(_, (x, _))| f64::from(x));
        wide / 1000.0 * self.size * WIDER
    }

    /// The words, without their end where they are too wide.
    pub(super) fn fit(self, words: &str, width: f64) -> String {
        // No line has room for more, and measuring costs.
        const MOST: usize = 400;
        let words = clean(words);
        let letters: Vec<char> = words.chars().take(MOST).collect();
        if words.chars().count() <= MOST && self.width(&words) <= width {
            return words;
        }
        let short = |count: usize| -> String {
            letters[..count].iter().collect::<String>().trim_end().chars().chain(['…']).collect()
        };
        // Some number of letters fits, and the next does not.
        let (mut fits, mut beyond) = (0, letters.len());
        while beyond - fits > 1 {
            let middle = usize::midpoint(fits, beyond);
            if self.width(&short(middle)) <= width { fits = middle } else { beyond = middle }
        }
        short(fits)
    }

    fn style(self) -> FontStyle {
        if self.bold { FontStyle::Bold } else { FontStyle::Normal }
    }
}

/// A mark of a legend.
#[derive(Clone, Copy)]
pub(super) enum Mark {
    Disc(RGBColor),
    Ring(RGBColor),
    Square(RGBColor),
    Warning(RGBColor),
}

/// A picture that is being drawn.
pub(super) struct Canvas {
    size: (u32, u32),
    background: RGBColor,
    shapes: Vec<Shape>,
}

enum Shape {
    Line { from: Spot, to: Spot, width: u32, color: RGBColor },
    Rect { rect: Rect, color: RGBColor },
    Disc { center: Spot, radius: f64, color: RGBColor },
    Polygon { corners: Vec<Spot>, color: RGBColor },
    Words { words: String, at: Spot, pen: Pen },
}

impl Canvas {
    /// An empty picture with its title and subtitle.
    pub(super) fn new(
        size: (u32, u32),
        title: &str,
        subtitle: &str,
        palette: &Palette,
    ) -> Result<Self, Failure> {
        for (style, bytes) in
            [(FontStyle::Normal, dejavu::sans::regular()), (FontStyle::Bold, dejavu::sans::bold())]
        {
            register_font(FAMILY, style, bytes).map_err(|_| failure(&"its typeface is damaged"))?;
        }
        let mut canvas = Self { size, background: palette.background, shapes: Vec::new() };
        let width = f64::from(size.0) - 48.0;
        let pen = Pen::new(20.0, palette.ink).bold();
        canvas.words(&pen.fit(title, width), (24.0, 36.0), pen);
        let pen = Pen::new(14.0, palette.faint);
        canvas.words(&pen.fit(subtitle, width), (24.0, 60.0), pen);
        Ok(canvas)
    }

    /// Makes the picture this high.
    pub(super) fn set_height(&mut self, height: u32) {
        self.size.1 = height;
    }

    pub(super) fn line(&mut self, from: Spot, to: Spot, width: u32, color: RGBColor) {
        self.shapes.push(Shape::Line { from, to, width, color });
    }

    /// A line of pieces `on` long with `off` between them: plotters' backends know none.
    pub(super) fn dashed(
        &mut self,
        from: Spot,
        to: Spot,
        (on, off): (f64, f64),
        width: u32,
        color: RGBColor,
    ) {
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let length = dx.hypot(dy);
        let at = |part: f64| (from.0 + dx * part / length, from.1 + dy * part / length);
        let mut start = 0.0;
        while start < length {
            self.line(at(start), at((start + on).min(length)), width, color);
            start += on + off;
        }
    }

    pub(super) fn rect(&mut self, rect: Rect, color: RGBColor) {
        self.shapes.push(Shape::Rect { rect, color });
    }

    pub(super) fn disc(&mut self, center: Spot, radius: f64, color: RGBColor) {
        self.shapes.push(Shape::Disc { center, radius, color });
    }

    /// A hollow disc that hides what is behind it.
    pub(super) fn ring(&mut self, center: Spot, radius: f64, color: RGBColor) {
        self.disc(center, radius, color);
        self.disc(center, (radius - 2.5).max(1.0), self.background);
    }

    /// A triangle with an exclamation mark, which no group has.
    pub(super) fn warning(&mut self, (x, y): Spot, radius: f64, color: RGBColor) {
        let corners = vec![
            (x, y - radius),
            (x + radius * 0.95, y + radius * 0.75),
            (x - radius * 0.95, y + radius * 0.75),
        ];
        self.shapes.push(Shape::Polygon { corners, color });
        let pen = Pen::new(radius * 1.25, self.background).bold().centered();
        self.words("!", (x, y + radius * 0.62), pen);
    }

    /// Writes from this place, at the height of the line that letters stand on.
    pub(super) fn words(&mut self, words: &str, at: Spot, pen: Pen) {
        self.shapes.push(Shape::Words { words: clean(words), at, pen });
    }

    /// Marks with their names, in rows from this place on; where the next row would be.
    pub(super) fn legend(&mut self, entries: &[(Mark, &str)], (left, top): Spot, pen: Pen) -> f64 {
        let right = f64::from(self.size.0) - 24.0;
        let (mut x, mut y) = (left, top);
        for (mark, name) in entries {
            let name = pen.fit(name, 260.0);
            let width = 20.0 + pen.width(&name);
            if x > left && x + width > right {
                x = left;
                y += 22.0;
            }
            match *mark {
                Mark::Disc(color) => self.disc((x + 6.0, y), 6.0, color),
                Mark::Ring(color) => self.ring((x + 6.0, y), 6.0, color),
                Mark::Square(color) => {
                    self.rect(Rect { left: x, top: y - 6.0, right: x + 12.0, bottom: y + 6.0 }, color);
                }
                Mark::Warning(color) => self.warning((x + 6.0, y), 8.0, color),
            }
            self.words(&name, (x + 20.0, y + pen.half_height()), pen);
            x += width + 22.0;
        }
        y + 22.0
    }

    /// The picture as an SVG document.
    pub(super) fn svg(&self, title: &str) -> Result<String, Failure> {
        let mut svg = String::new();
        let mut backend = SVGBackend::with_string(&mut svg, self.size);
        let media = Media {
            pixels: 1.0,
            middle: 0.0,
            letters: |size| size * SVG_LETTERS,
            // What plotters writes as `dy`, which browsers take as it is.
            baseline: |size| size / SVG_LETTERS * 0.76,
        };
        self.paint(&mut backend, &media)?;
        backend.present().map_err(|error| failure(&error))?;
        drop(backend);
        // Readers of the page aloud have the title for the picture.
        Ok(svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{}\" ", escaped(title)), 1))
    }

    /// The picture as the bytes of a PNG file.
    pub(super) fn png(&self) -> Result<Vec<u8>, Failure> {
        let (width, height) = self.size;
        let large = (width * OVERSAMPLING, height * OVERSAMPLING);
        let mut pixels = vec![0; large.0 as usize * large.1 as usize * 3];
        {
            let mut backend = BitMapBackend::with_buffer(&mut pixels, large);
            let media = Media {
                pixels: f64::from(OVERSAMPLING),
                middle: f64::from(OVERSAMPLING / 2),
                // Even, or plotters sets some letters a pixel higher than others.
                letters: |size| (size * f64::from(OVERSAMPLING) * LETTERS / 2.0).round() * 2.0,
                // Where plotters sets the letters below their upper left corner.
                baseline: |size| size / 2.0,
            };
            self.paint(&mut backend, &media)?;
            backend.present().map_err(|error| failure(&error))?;
        }
        let large = RgbImage::from_raw(large.0, large.1, pixels)
            .ok_or_else(|| failure(&"the canvas has another size"))?;
        let mut png = Cursor::new(Vec::new());
        imageops::thumbnail(&large, width, height)
            .write_to(&mut png, ImageFormat::Png)
            .map_err(|error| failure(&error))?;
        Ok(png.into_inner())
    }

    fn paint<B: DrawingBackend>(&self, backend: &mut B, media: &Media) -> Result<(), Failure> {
        let (width, height) = self.size;
        let page = Rect { left: 0.0, top: 0.0, right: f64::from(width), bottom: f64::from(height) };
        media.paint(backend, &Shape::Rect { rect: page, color: self.background })?;
        self.shapes.iter().try_for_each(|shape| media.paint(backend, shape))
    }
}

/// How plotters wants things to be told for one of its backends.
struct Media {
    /// Its pixels in one of ours.
    pixels: f64,
    /// From the edge of one of our pixels to its middle, where thin lines belong.
    middle: f64,
    /// Plotters' size of letters with ems of this many pixels.
    letters: fn(f64) -> f64,
    /// From where plotters is told to write, down to the line that letters of plotters' size stand on.
    baseline: fn(f64) -> f64,
}

impl Media {
    fn paint<B: DrawingBackend>(&self, backend: &mut B, shape: &Shape) -> Result<(), Failure> {
        let corner = |(x, y): Spot| ((x * self.pixels).round() as i32, (y * self.pixels).round() as i32);
        let middle = |(x, y): Spot| {
            let (x, y) = corner((x, y));
            (x + self.middle as i32, y + self.middle as i32)
        };
        match shape {
            Shape::Line { from, to, width, color } => {
                let style = color.stroke_width(width * self.pixels as u32);
                backend.draw_line(middle(*from), middle(*to), &style)
            }
            Shape::Rect { rect, color } => {
                let (left, top) = corner((rect.left, rect.top));
                let (right, bottom) = corner((rect.right, rect.bottom));
                backend.draw_rect((left, top), (right, bottom), color, true)
            }
            Shape::Disc { center, radius, color } => {
                backend.draw_circle(middle(*center), (radius * self.pixels).round() as u32, color, true)
            }
            Shape::Polygon { corners, color } => {
                backend.fill_polygon(corners.iter().copied().map(middle).collect::<Vec<_>>(), color)
            }
            Shape::Words { words, at, pen } => {
                let size = (self.letters)(pen.size);
                let above = (self.baseline)(size);
                let (x, y) = (at.0 * self.pixels, at.1 * self.pixels);
                let (x, y) = if pen.upward { (x - above, y) } else { (x, y - above) };
                let transform = if pen.upward { FontTransform::Rotate270 } else { FontTransform::None };
                let style = FontDesc::new(FontFamily::Name(FAMILY), size, pen.style())
                    .transform(transform)
                    .color(&pen.color)
                    .pos(Pos::new(pen.anchor, VPos::Top));
                backend.draw_text(words, &style, (x.round() as i32, y.round() as i32))
            }
        }
        .map_err(|error| failure(&error))
    }
}

fn failure(error: &dyn std::fmt::Display) -> Failure {
    Failure::internal(format!("cannot draw the chart: {error}"))
}

/// Without what XML has no way to write, and on one line.
fn clean(words: &str) -> String {
    let plain = |letter: char| !letter.is_control() && !matches!(letter, '\u{FFFE}' | '\u{FFFF}');
    words.chars().map(|letter| if plain(letter) { letter } else { ' ' }).collect()
}

fn escaped(words: &str) -> String {
    clean(words)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&apos;")
}

#[cfg(test)]
mod tests {
    use super::super::Theme;
    use super::*;

    fn canvas() -> Canvas {
        Canvas::new((400, 120), "Title", "subtitle", &Palette::of(Theme::Light)).unwrap()
    }

    #[test]
    fn words_are_shortened_to_the_width() {
        canvas();
        let pen = Pen::new(12.0, RGBColor(0, 0, 0));
        assert_eq!(pen.fit("short", 200.0), "short");
        let long = pen.fit(&"wide words ".repeat(5000), 200.0);
        assert!(long.ends_with('…') && pen.width(&long) <= 200.0 && pen.width(&long) > 170.0, "{long}");
        assert_eq!(pen.fit("nowhere", 0.0), "…");
        assert_eq!(pen.fit("two\nlines\u{0}", 200.0), "two lines ");
    }

    #[test]
    fn png_has_sharp_boxes_of_the_exact_color() {
        let mut canvas = canvas();
        let color = RGBColor(12, 34, 56);
        canvas.rect(Rect { left: 300.0, top: 20.0, right: 340.0, bottom: 30.0 }, color);
        canvas.line((300.0, 80.0), (340.0, 80.0), 1, color);
        let image = image::load_from_memory(&canvas.png().unwrap()).unwrap().to_rgb8();
        assert_eq!(image.dimensions(), (400, 120));
        let ink = |y: u32| (290..350).filter(|x| image.get_pixel(*x, y).0 == [12, 34, 56]).count();
        let rows: Vec<_> = (10..90).filter(|y| ink(*y) > 0).collect();
        assert_eq!(rows, (20..30).chain([80]).collect::<Vec<_>>());
        assert_eq!((ink(20), ink(29)), (40, 40));
    }

    #[test]
    fn words_stand_on_their_line_in_a_png() {
        let mut canvas = canvas();
        canvas.words("HHH", (300.0, 60.0), Pen::new(16.0, RGBColor(0, 0, 0)));
        let image = image::load_from_memory(&canvas.png().unwrap()).unwrap().to_rgb8();
        let dark = |y: u32| (290..399).any(|x| image.get_pixel(x, y).0[0] < 100);
        let rows: Vec<_> = (20..100).filter(|y| dark(*y)).collect();
        // Capitals of DejaVu are 0.73 ems high.
        assert!(rows[0].abs_diff(48) <= 1 && rows[rows.len() - 1].abs_diff(59) <= 1, "{rows:?}");
    }

    #[test]
    fn svg_names_the_typefaces_and_scales() {
        let svg = canvas().svg("a<b & \"c\"\u{1}").unwrap();
        assert!(svg.starts_with("<svg role=\"img\" aria-label=\"a&lt;b &amp; &quot;c&quot; \""), "{svg}");
        assert!(svg.contains("viewBox=\"0 0 400 120\""));
        assert!(svg.contains("font-family=\"DejaVu Sans, Verdana, sans-serif\""));
    }
}
