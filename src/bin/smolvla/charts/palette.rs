//! Colours of the charts, for pages that are light and pages that are dark.

use plotters::style::RGBColor;

use super::Theme;

/// Distinct without relying on red against green, and dark enough for white paper.
const ON_LIGHT: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 138, 100),
    RGBColor(170, 80, 140),
    RGBColor(150, 110, 0),
    RGBColor(75, 65, 150),
    RGBColor(0, 145, 175),
    RGBColor(120, 80, 60),
];
/// The same hues, light enough for a dark page.
const ON_DARK: [RGBColor; 8] = [
    RGBColor(86, 175, 233),
    RGBColor(242, 142, 70),
    RGBColor(60, 190, 145),
    RGBColor(216, 135, 195),
    RGBColor(222, 188, 80),
    RGBColor(152, 148, 240),
    RGBColor(110, 215, 220),
    RGBColor(195, 155, 130),
];

/// The colours of one theme.
pub(super) struct Palette {
    pub(super) background: RGBColor,
    pub(super) ink: RGBColor,
    pub(super) faint: RGBColor,
    pub(super) grid: RGBColor,
    /// Between the lines of the grid.
    pub(super) fine_grid: RGBColor,
    /// Between ink and grid.
    pub(super) pale: RGBColor,
    pub(super) error: RGBColor,
    groups: [RGBColor; 8],
}

impl Palette {
    /// The colours for this kind of page.
    pub(super) fn of(theme: Theme) -> Self {
        match theme {
            Theme::Light => Self {
                background: RGBColor(255, 255, 255),
                ink: RGBColor(35, 40, 48),
                faint: RGBColor(100, 108, 118),
                grid: RGBColor(222, 225, 230),
                fine_grid: RGBColor(241, 243, 245),
                pale: RGBColor(150, 157, 166),
                error: RGBColor(190, 10, 40),
                groups: ON_LIGHT,
            },
            Theme::Dark => Self {
                background: RGBColor(20, 24, 31),
                ink: RGBColor(230, 234, 240),
                faint: RGBColor(160, 168, 180),
                grid: RGBColor(51, 58, 69),
                fine_grid: RGBColor(32, 37, 46),
                pale: RGBColor(112, 121, 134),
                error: RGBColor(255, 105, 110),
                groups: ON_DARK,
            },
        }
    }

    /// The colour of a group; after the last hue they repeat, half as strong.
    pub(super) fn group(&self, group: usize) -> RGBColor {
        let hue = self.groups[group % self.groups.len()];
        if group < self.groups.len() { hue } else { mixed(hue, self.background) }
    }

    /// The colour of lines between the markers of a group and their labels.
    pub(super) fn leader(&self, group: usize) -> RGBColor {
        mixed(self.group(group), self.pale)
    }
}

/// Dark or light, whichever can be read on this colour.
pub(super) fn readable_on(color: RGBColor) -> RGBColor {
    let luminance = 0.299 * f64::from(color.0) + 0.587 * f64::from(color.1) + 0.114 * f64::from(color.2);
    if luminance > 140.0 { RGBColor(20, 24, 31) } else { RGBColor(255, 255, 255) }
}

fn mixed(a: RGBColor, b: RGBColor) -> RGBColor {
    let half = |a: u8, b: u8| a / 2 + b / 2;
    RGBColor(half(a.0, b.0), half(a.1, b.1), half(a.2, b.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_colors_of_their_own() {
        for theme in [Theme::Light, Theme::Dark] {
            let palette = Palette::of(theme);
            for group in 0..16 {
                for other in 0..group {
                    assert_ne!(palette.group(group), palette.group(other), "{theme:?}: {group} and {other}");
                }
            }
        }
    }
}
