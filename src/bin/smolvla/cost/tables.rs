//! Tables, and the forms they are printed in.

use std::fmt::Write;

/// What stands in a cell.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    /// Words.
    Text(String),
    /// A number, and how many decimals people are shown. Programs get all of it.
    Number(f64, usize),
    /// Nothing.
    Empty,
}

impl Cell {
    /// For people: thousands are set apart.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(value, decimals) => grouped(*value, *decimals),
            Self::Empty => String::new(),
        }
    }

    fn exact(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(value, _) => value.to_string(),
            Self::Empty => String::new(),
        }
    }

    fn is_right_aligned(&self) -> bool {
        !matches!(self, Self::Text(_))
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

/// A table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Table {
    pub(crate) title: String,
    /// Headings, with units.
    pub(crate) columns: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<Cell>>,
    /// Whether the last row is a sum.
    pub(crate) has_total: bool,
}

impl Table {
    /// In aligned columns, for a terminal.
    pub(crate) fn text(&self) -> String {
        let rows: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(Cell::shown).collect()).collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                let cells = rows.iter().map(|row| row[column].chars().count());
                cells.chain([self.columns[column].chars().count()]).max().unwrap_or(0)
            })
            .collect();
        let mut text = format!("{}\n", self.title);
        let heading: Vec<String> = self.columns.iter().map(|column| (*column).to_owned()).collect();
        let right: Vec<bool> = (0..self.columns.len()).map(|column| self.is_right_aligned(column)).collect();
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
            let _ = write!(text, " {column} |");
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
        let field = |text: &str| {
            if text.contains([',', '"', '\n']) {
                format!("\"{}\"", text.replace('"', "\"\""))
            } else {
                text.to_owned()
            }
        };
        text.push_str(&self.columns.iter().map(|column| field(column)).collect::<Vec<_>>().join(","));
        text.push('\n');
        let rows = self.rows.len() - usize::from(self.has_total);
        for row in &self.rows[..rows] {
            text.push_str(&row.iter().map(|cell| field(&cell.exact())).collect::<Vec<_>>().join(","));
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
            columns: vec!["component", "GMAC"],
            rows: vec![
                vec!["vision, all".into(), Cell::Number(1_106.904_42, 2)],
                vec!["total".into(), Cell::Number(2.0, 2)],
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
        assert_eq!(table().csv(), "component,GMAC\n\"vision, all\",1106.90442\n");
    }

    #[test]
    fn markdown_aligns_numbers_to_the_right() {
        assert!(table().markdown().contains("| component | GMAC |\n|---|---:|\n| vision, all | 1,106.90 |"));
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
