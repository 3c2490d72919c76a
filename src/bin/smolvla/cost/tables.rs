//! Tables, and the forms they are printed in.

use std::fmt::Write;

use crate::output::quoted;

/// What stands in a cell.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    /// Words.
    Text(String),
    /// A number, and how many decimals people are shown. Programs get all of it.
    Number(f64, usize),
    /// Words for people, and a shorter one for programs.
    Either(String, &'static str),
    /// Nothing.
    Empty,
}

impl Cell {
    /// For people: thousands are set apart.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(value, decimals) => grouped(*value, *decimals),
            Self::Either(shown, _) => shown.clone(),
            Self::Empty => String::new(),
        }
    }

    fn exact(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            // Beyond twelve digits there is only rounding of the arithmetic.
            Self::Number(value, _) => format!("{value:.11e}")
                .parse::<f64>()
                .map_or_else(|_| value.to_string(), |value| value.to_string()),
            Self::Either(_, exact) => (*exact).to_owned(),
            Self::Empty => String::new(),
        }
    }

    fn is_right_aligned(&self) -> bool {
        !matches!(self, Self::Text(_) | Self::Either(..))
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// A heading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    /// Left out on a terminal, which has no room for everything.
    pub(crate) is_minor: bool,
}

/// Headings; a name in brackets is a minor one.
pub(crate) fn columns<const N: usize>(names: [&'static str; N]) -> Vec<Column> {
    let column = |name: &'static str| match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(name) => Column { name, is_minor: true },
        None => Column { name, is_minor: false },
    };
    names.map(column).to_vec()
}

/// A table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Table {
    pub(crate) title: String,
    /// Headings, with units.
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Vec<Cell>>,
    /// Whether the last row is a sum.
    pub(crate) has_total: bool,
}

impl Table {
    /// In aligned columns, for a terminal; without minor ones.
    pub(crate) fn text(&self) -> String {
        let kept: Vec<usize> =
            (0..self.columns.len()).filter(|column| !self.columns[*column].is_minor).collect();
        let pick =
            |cells: &[Cell]| -> Vec<String> { kept.iter().map(|column| cells[*column].shown()).collect() };
        let rows: Vec<Vec<String>> = self.rows.iter().map(|row| pick(row)).collect();
        let heading: Vec<String> = kept.iter().map(|column| self.columns[*column].name.to_owned()).collect();
        let widths: Vec<usize> = (0..kept.len())
            .map(|column| {
                let cells = rows.iter().chain([&heading]).map(|row| row[column].chars().count());
                cells.max().unwrap_or(0)
            })
            .collect();
        let mut text = format!("{}\n", self.title);
        let right: Vec<bool> = kept.iter().map(|column| self.is_right_aligned(*column)).collect();
        line(&mut text, &heading, &widths, &right);
        let rule = widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
        for (index, row) in rows.iter().enumerate() {
            if self.has_total && index + 1 == rows.len() {
                let _ = writeln!(text, "{}", "─".repeat(rule));
            }
            line(&mut text, row, &widths, &right);
        }
        text
    }

    /// As Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("### {}\n\n|", self.title);
        for column in &self.columns {
            let _ = write!(text, " {} |", column.name);
        }
        text.push_str("\n|");
        for column in 0..self.columns.len() {
            text.push_str(if self.is_right_aligned(column) { "---:|" } else { "---|" });
        }
        text.push('\n');
        for row in &self.rows {
            text.push('|');
            for cell in row {
                let _ = write!(text, " {} |", cell.shown().replace('|', "\\|"));
            }
            text.push('\n');
        }
        text
    }

    /// As comma-separated values with every digit, without title and sum.
    pub(crate) fn csv(&self) -> String {
        let mut text = String::new();
        text.push_str(&self.columns.iter().map(|column| quoted(column.name)).collect::<Vec<_>>().join(","));
        text.push('\n');
        let rows = self.rows.len() - usize::from(self.has_total);
        for row in &self.rows[..rows] {
            text.push_str(
                &row.iter().map(|cell| quoted(&cell.exact()).into_owned()).collect::<Vec<_>>().join(","),
            );
            text.push('\n');
        }
        text
    }

    /// Whether a column holds numbers.
    pub(crate) fn is_right_aligned(&self, column: usize) -> bool {
        self.rows.iter().all(|row| row[column].is_right_aligned())
    }
}

fn line(text: &mut String, cells: &[String], widths: &[usize], right: &[bool]) {
    let mut line = String::new();
    for ((cell, width), right) in cells.iter().zip(widths).zip(right) {
        if *right {
            let _ = write!(line, "{cell:>width$}  ");
        } else {
            let _ = write!(line, "{cell:<width$}  ");
        }
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

/// A number with its thousands set apart; one too small for its decimals gets more of them.
pub(crate) fn grouped(value: f64, decimals: usize) -> String {
    let mut decimals = decimals;
    while value != 0.0 && decimals < 6 && value.abs() < 0.5 * 10_f64.powi(-(decimals as i32)) {
        decimals += 1;
    }
    // Adding zero turns the negative zero into the positive one.
    let text = format!("{:.decimals$}", value + 0.0);
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table {
            title: "costs".to_owned(),
            columns: columns(["component", "[note]", "GMAC"]),
            rows: vec![
                vec!["vision, all".into(), "a".into(), Cell::Number(1_106.904_42, 2)],
                vec!["total".into(), Cell::Empty, Cell::Number(2.0, 2)],
            ],
            has_total: true,
        }
    }

    #[test]
    fn text_is_aligned_and_the_sum_set_apart() {
        assert_eq!(
            table().text(),
            "costs\ncomponent        GMAC\nvision, all  1,106.90\n─────────────────────\ntotal            2.00\n"
        );
    }

    #[test]
    fn csv_has_every_digit_and_no_sum() {
        assert_eq!(table().csv(), "component,note,GMAC\n\"vision, all\",a,1106.90442\n");
    }

    #[test]
    fn programs_get_no_noise_of_rounding() {
        assert_eq!(Cell::Number(4.052 * 1000.0, 2).exact(), "4052");
        assert_eq!(Cell::Number(1.0 / 3.0, 2).exact(), "0.333333333333");
        assert_eq!(Cell::Either("compute 90 %".to_owned(), "compute").exact(), "compute");
    }

    #[test]
    fn markdown_aligns_numbers_to_the_right() {
        assert!(
            table()
                .markdown()
                .contains("| component | note | GMAC |\n|---|---|---:|\n| vision, all | a | 1,106.90 |")
        );
    }

    #[test]
    fn numbers_are_grouped_and_never_vanish() {
        assert_eq!(grouped(450_046_176.0, 0), "450,046,176");
        assert_eq!(grouped(-1234.5, 1), "-1,234.5");
        assert_eq!(grouped(0.0003, 2), "0.0003");
        assert_eq!(grouped(0.0, 2), "0.00");
        assert_eq!(grouped(-0.0, 0), "0");
    }
}
