//! Places on the table and the colours of what lies there.

use std::fmt;
use std::ops::{Add, Mul, Sub};

/// Side of the square table, in centimetres.
pub const TABLE_CM: f64 = 40.0;
/// Side of a block, in centimetres.
pub const BLOCK_CM: f64 = 4.0;
/// Side of the square that is marked in a corner, in centimetres.
pub const CORNER_CM: f64 = 9.0;

/// A place on the table or a displacement, in centimetres; or a velocity, in centimetres a second.
///
/// `x` grows to the right and `y` away from the robot, which is up in the picture from above.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// To the right.
    pub x: f64,
    /// Away from the robot.
    pub y: f64,
}

impl Point {
    /// A point from its coordinates.
    pub const fn new(x: f64, y: f64) -> Self {
        Self { x, y }
    }

    /// Length of the way from the origin.
    pub fn norm(self) -> f64 {
        // Not `hypot`, whose last bit is the system's own.
        (self.x * self.x + self.y * self.y).sqrt()
    }

    /// Length of the straight way to `other`.
    pub fn distance(self, other: Self) -> f64 {
        (self - other).norm()
    }

    /// The larger of the distances along `x` and along `y`.
    pub fn reach(self, other: Self) -> f64 {
        let way = self - other;
        way.x.abs().max(way.y.abs())
    }

    /// The nearest point that is at least `margin` from the table's edges.
    pub fn on_table(self, margin: f64) -> Self {
        let clamp = |value: f64| value.clamp(margin, TABLE_CM - margin);
        Self::new(clamp(self.x), clamp(self.y))
    }

    /// The same direction, no longer than `longest`.
    pub fn at_most(self, longest: f64) -> Self {
        let norm = self.norm();
        if norm > longest { self * (longest / norm) } else { self }
    }
}

impl Add for Point {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self::new(self.x + other.x, self.y + other.y)
    }
}

impl Sub for Point {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self::new(self.x - other.x, self.y - other.y)
    }
}

impl Mul<f64> for Point {
    type Output = Self;

    fn mul(self, factor: f64) -> Self {
        Self::new(self.x * factor, self.y * factor)
    }
}

/// A block's colour; no two blocks of a scene share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Red.
    Red,
    /// Green.
    Green,
    /// Blue.
    Blue,
    /// Yellow.
    Yellow,
}

impl Colour {
    /// All colours, by index.
    pub const ALL: [Self; 4] = [Self::Red, Self::Green, Self::Blue, Self::Yellow];

    /// The word an instruction uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Green => "green",
            Self::Blue => "blue",
            Self::Yellow => "yellow",
        }
    }

    /// What the cameras see, 8 bits a channel.
    pub const fn rgb(self) -> [u8; 3] {
        match self {
            Self::Red => [206, 52, 48],
            Self::Green => [56, 150, 72],
            Self::Blue => [48, 92, 196],
            Self::Yellow => [236, 188, 40],
        }
    }

    /// Its place in [`Colour::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Colour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One of the two far corners, which are marked on the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corner {
    /// The far left one.
    Left,
    /// The far right one.
    Right,
}

impl Corner {
    /// Both corners.
    pub const ALL: [Self; 2] = [Self::Left, Self::Right];

    /// The word an instruction uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Right => "right",
        }
    }

    /// The centre of the marked square.
    pub const fn place(self) -> Point {
        let half = CORNER_CM / 2.0;
        match self {
            Self::Left => Point::new(half, TABLE_CM - half),
            Self::Right => Point::new(TABLE_CM - half, TABLE_CM - half),
        }
    }

    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }
}

impl fmt::Display for Corner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_brought_onto_the_table_and_vectors_to_a_length() {
        assert_eq!(Point::new(-3.0, 41.0).on_table(2.0), Point::new(2.0, 38.0));
        assert_eq!(Point::new(3.0, 4.0).at_most(2.5), Point::new(1.5, 2.0));
        assert_eq!(Point::new(3.0, 4.0).at_most(9.0), Point::new(3.0, 4.0));
        assert_eq!(Point::new(1.0, 5.0).reach(Point::new(3.0, 4.0)), 2.0);
    }
}
