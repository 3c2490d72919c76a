//! `report.json`: indented down to one measurement a line, so that it can be searched and compared line by line.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use super::{Behaviour, Report};

/// The report as JSON. Infinities and NaN are strings; in traces, which hold plain arrays, they are `null`.
pub(super) fn bytes(report: &Report) -> io::Result<Vec<u8>> {
    lines(report, INDENTED_DEPTH)
}

/// `rollout.json`: a field of a row on one line.
pub(super) fn behaviour(behaviour: &Behaviour) -> io::Result<Vec<u8>> {
    lines(behaviour, 3)
}

fn lines<T: Serialize>(value: &T, indented: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut bytes, Lines { indented, ..Lines::default() }))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Report, backends, backend, checks, check, measurements: what is deeper stays on one line.
const INDENTED_DEPTH: usize = 6;

#[derive(Default)]
struct Lines {
    /// What is deeper stays on one line.
    indented: usize,
    depth: usize,
    /// Whether the innermost container has a value, and so a line of its own for its closing bracket.
    has_value: bool,
}

impl Lines {
    fn open<W: Write + ?Sized>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.has_value = false;
        writer.write_all(bracket)
    }

    fn close<W: Write + ?Sized>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.has_value && self.depth < self.indented {
            self.line(writer)?;
        }
        writer.write_all(bracket)
    }

    fn separate<W: Write + ?Sized>(&self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(b",")?;
        }
        match (self.depth <= self.indented, first) {
            (true, _) => self.line(writer),
            (false, true) => Ok(()),
            (false, false) => writer.write_all(b" "),
        }
    }

    fn line<W: Write + ?Sized>(&self, writer: &mut W) -> io::Result<()> {
        write!(writer, "\n{:1$}", "", self.depth)
    }
}

impl Formatter for Lines {
    fn begin_array<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.separate(writer, first)
    }

    fn end_array_value<W: Write + ?Sized>(&mut self, _writer: &mut W) -> io::Result<()> {
        self.has_value = true;
        Ok(())
    }

    fn begin_object<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.separate(writer, first)
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn end_object_value<W: Write + ?Sized>(&mut self, _writer: &mut W) -> io::Result<()> {
        self.has_value = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_values_stay_on_one_line() {
        let value = serde_json::json!([[[[[[{"a": 1, "b": [2, 3]}], []]]]]]);
        let text = String::from_utf8(lines(&value, INDENTED_DEPTH).unwrap()).unwrap();
        assert!(text.contains("\n      {\"a\": 1, \"b\": [2, 3]}\n     ],\n     []\n"), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
