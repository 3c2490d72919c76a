//! Words in a picture.

use ab_glyph::{Font, FontRef, PxScale, ScaleFont, point};

use super::{Picture, Rgb, Spot, ink};
use crate::failure::Failure;

/// DejaVu's height from ascent to descent, in ems.
const LETTERS: f32 = 1.164;

/// Which letters.
#[derive(Clone)]
pub(in crate::demo::film) struct Letters {
    font: FontRef<'static>,
    /// Pixels of an em.
    size: f32,
}

impl Letters {
    /// Upright letters with ems of this many pixels.
    pub(in crate::demo::film) fn new(size: f32) -> Result<Self, Failure> {
        Self::of(dejavu::sans::regular(), size)
    }

    /// Heavy letters.
    pub(in crate::demo::film) fn bold(size: f32) -> Result<Self, Failure> {
        Self::of(dejavu::sans::bold(), size)
    }

    fn of(bytes: &'static [u8], size: f32) -> Result<Self, Failure> {
        let font = FontRef::try_from_slice(bytes)
            .map_err(|error| Failure::internal(format!("cannot draw: the typeface is damaged: {error}")))?;
        Ok(Self { font, size })
    }

    /// How wide the words become.
    pub(in crate::demo::film) fn width(&self, words: &str) -> f64 {
        self.lay(words, |_, _| ())
    }

    /// The words, without their end where they are too wide.
    pub(in crate::demo::film) fn fit(&self, words: &str, width: f64) -> String {
        let mut fitting: String = words.to_owned();
        let mut count = words.chars().count();
        while self.width(&fitting) > width && count > 0 {
            count -= 1;
            fitting = words.chars().take(count).collect::<String>().trim_end().to_owned() + "…";
        }
        fitting
    }

    /// The words in lines of at most this width; what is too much for the last is left out.
    pub(in crate::demo::film) fn wrap(&self, words: &str, width: f64, most: usize) -> Vec<String> {
        let mut lines = vec![String::new()];
        for word in words.split_whitespace() {
            let count = lines.len();
            let line = &mut lines[count - 1];
            let longer = format!("{line} {word}").trim_start().to_owned();
            if line.is_empty() || count == most || self.width(&longer) <= width {
                *line = longer;
            } else {
                lines.push(word.to_owned());
            }
        }
        lines.iter().map(|line| self.fit(line, width)).collect()
    }

    /// Calls back with every glyph and where it begins; the width of all.
    fn lay(&self, words: &str, mut each: impl FnMut(ab_glyph::GlyphId, f32)) -> f64 {
        let scaled = self.font.as_scaled(PxScale::from(self.size * LETTERS));
        let mut x = 0.0;
        let mut last = None;
        for letter in words.chars() {
            let glyph = scaled.glyph_id(letter);
            x += last.map_or(0.0, |last| scaled.kern(last, glyph));
            each(glyph, x);
            x += scaled.h_advance(glyph);
            last = Some(glyph);
        }
        f64::from(x)
    }
}

impl Picture {
    /// Writes from this place, on the line that letters stand on; where the words end.
    pub(in crate::demo::film) fn words(
        &mut self,
        words: &str,
        (x, y): Spot,
        letters: &Letters,
        color: Rgb,
    ) -> f64 {
        let scale = PxScale::from(letters.size * LETTERS);
        let width = letters.lay(words, |glyph, offset| {
            let place = point(x as f32 + offset, y as f32);
            let Some(outline) = letters.font.outline_glyph(glyph.with_scale_and_position(scale, place))
            else {
                return;
            };
            let corner = outline.px_bounds().min;
            outline.draw(|dx, dy, covered| {
                let (x, y) = (corner.x + dx as f32, corner.y + dy as f32);
                if x >= 0.0 && y >= 0.0 && (x as usize) < self.width && (y as usize) < self.height {
                    self.blend(x as usize, y as usize, ink(color), f64::from(covered));
                }
            });
        });
        x + width
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_shortened_to_the_width() {
        let letters = Letters::new(12.0).unwrap();
        assert_eq!(letters.fit("short", 200.0), "short");
        let long = letters.fit("push the yellow block into the far left corner of the table", 200.0);
        assert!(long.ends_with('…') && letters.width(&long) <= 200.0, "{long}");
        assert!(letters.width(&long) > 170.0, "{long}");
    }

    #[test]
    fn words_are_wrapped_into_as_many_lines_as_there_may_be() {
        let letters = Letters::new(12.0).unwrap();
        assert_eq!(letters.wrap("one line", 200.0, 2), ["one line"]);
        let lines = letters.wrap("push the yellow block into the corner", 150.0, 2);
        assert_eq!(lines.join(" "), "push the yellow block into the corner");
        assert_eq!(lines.len(), 2);
        let lines = letters.wrap(&"many words ".repeat(20), 150.0, 2);
        assert!(lines.len() == 2 && lines[1].ends_with('…'), "{lines:?}");
    }
}
