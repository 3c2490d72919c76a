//! Where the labels of markers stand, so that each can be read: beside its marker, and on no other.

use std::f64::consts::TAU;

use super::canvas::{Rect, Spot};

/// Between two labels, and between a label and a marker.
const GAP: f64 = 3.0;
/// How often labels move again after the others have moved.
const ROUNDS: usize = 12;
/// What it costs to have no label.
const MISSING: f64 = 1e4;
const DIRECTIONS: u32 = 24;
/// From the edge of a marker to its label, nearest first.
const DISTANCES: [f64; 16] =
    [4.0, 8.0, 14.0, 21.0, 29.0, 38.0, 48.0, 60.0, 74.0, 90.0, 108.0, 128.0, 152.0, 180.0, 215.0, 260.0];
/// What it costs, in pixels of distance, to have a leader that crosses another marker, …
const OVER_MARKER: f64 = 130.0;
/// … that crosses another label, or stands under the leader of one, …
const OVER_LABEL: f64 = 260.0;
/// … or that crosses another leader.
const OVER_LEADER: f64 = 120.0;
/// What it costs to stand closer to another marker than to the label's own.
const MISLEADING: f64 = 60.0;
/// Part of its length that a leader costs more where it runs level: along the roof is where the others are.
const LEVEL: f64 = 1.2;
/// What it costs to stand hardly apart from another label.
const CROWDED: f64 = 14.0;

/// A marker, and the size of its label.
#[derive(Clone, Copy, Debug)]
pub(super) struct Labelled {
    pub(super) center: Spot,
    pub(super) radius: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Labelled {
    /// From the marker's edge to a box.
    pub(super) fn distance(&self, rect: &Rect) -> f64 {
        distance(rect.nearest(self.center), self.center) - self.radius
    }

    /// The line from the marker to its label.
    pub(super) fn leader(&self, label: &Rect) -> (Spot, Spot) {
        let end = label.nearest(self.center);
        let (dx, dy) = (end.0 - self.center.0, end.1 - self.center.1);
        let part = (self.radius / dx.hypot(dy).max(1e-9)).min(1.0);
        ((self.center.0 + dx * part, self.center.1 + dy * part), end)
    }
}

/// What is there before the labels.
pub(super) struct Surroundings {
    /// Labels stay inside.
    pub(super) bounds: Rect,
    /// Labels stand on none of these.
    pub(super) blocked: Vec<Rect>,
    /// Labels avoid these where they can; each with what it costs, in pixels of distance, to stand on it.
    pub(super) lines: Vec<(Spot, Spot, f64)>,
}

/// A box for each label: none overlaps another, a marker or what is blocked. `None` where there is no room.
pub(super) fn place(wanted: &[Labelled], around: &Surroundings) -> Vec<Option<Rect>> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    // The index last: equal places keep the order they are given in, always the same.
    order.sort_by(|a, b| {
        let (a, b) = (wanted[*a].center, wanted[*b].center);
        a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
    });
    let ascending = place_in(&order, wanted, around);
    order.reverse();
    let descending = place_in(&order, wanted, around);
    // The small hide the least, and the large have the most ways to be reached.
    order.sort_by(|a, b| wanted[*a].radius.total_cmp(&wanted[*b].radius));
    let growing = place_in(&order, wanted, around);
    let total =
        |placed: &[Placed]| placed.iter().map(|label| label.map_or(MISSING, |label| label.cost)).sum();
    let mut best = ascending;
    for other in [descending, growing] {
        let (least, cost): (f64, f64) = (total(&best), total(&other));
        if cost < least {
            best = other;
        }
    }
    best.into_iter().map(|label| label.map(|label| label.rect)).collect()
}

#[derive(Clone, Copy, PartialEq)]
struct Candidate {
    rect: Rect,
    cost: f64,
}

type Placed = Option<Candidate>;

/// Gives each label in this order the best place that is left, then again while that makes some better.
fn place_in(order: &[usize], wanted: &[Labelled], around: &Surroundings) -> Vec<Placed> {
    let mut placed: Vec<Placed> = vec![None; wanted.len()];
    for _ in 0..ROUNDS {
        let before = placed.clone();
        for &index in order {
            // Its own place is free for it again.
            placed[index] = None;
            placed[index] = best(index, wanted, &placed, around);
        }
        if placed == before {
            break;
        }
    }
    placed
}

fn best(index: usize, wanted: &[Labelled], placed: &[Placed], around: &Surroundings) -> Placed {
    let mut found: Placed = None;
    let mut consider = |rect: Rect, least: f64| {
        if found.is_some_and(|found| found.cost <= least) || !is_free(&rect, wanted, placed, around) {
            return;
        }
        let cost = least + penalty(index, &rect, wanted, placed, around);
        if found.is_none_or(|found| cost < found.cost) {
            found = Some(Candidate { rect, cost });
        }
    };
    for distance in DISTANCES {
        for direction in 0..DIRECTIONS {
            // From straight up, alternating between the sides.
            let turn = f64::from(direction.div_ceil(2)) / f64::from(DIRECTIONS) * TAU;
            let turn = if direction % 2 == 0 { turn } else { -turn };
            let level = if distance > 10.0 { LEVEL * distance * turn.sin().abs() } else { 0.0 };
            for (rect, aside) in beside(&wanted[index], turn, distance) {
                consider(rect, distance + 4.0 * turn.abs() / TAU + aside + level);
            }
        }
    }
    found.or_else(|| anywhere(index, wanted, placed, around))
}

/// Boxes in this direction from the marker, about this far from its edge, with what their shape costs.
fn beside(label: &Labelled, turn: f64, distance: f64) -> impl Iterator<Item = (Rect, f64)> {
    let (dx, dy) = (turn.sin(), -turn.cos());
    let reach = label.radius + distance;
    let (x, y) = (label.center.0 + dx * reach, label.center.1 + dy * reach);
    let (width, height) = (label.width, label.height);
    let along = (dx * 1.6).clamp(-1.0, 1.0);
    let down = (dy * 1.6).clamp(-1.0, 1.0);
    // Above and below, the box may also reach to one side.
    let asides: &'static [f64] = if dy.abs() > 0.6 { &[0.0, -0.85, 0.85] } else { &[0.0] };
    asides.iter().map(move |aside| {
        let along = if *aside == 0.0 { along } else { *aside };
        let (middle, center) = (x + along * width / 2.0, y + down * height / 2.0);
        let rect = Rect {
            left: middle - width / 2.0,
            top: center - height / 2.0,
            right: middle + width / 2.0,
            bottom: center + height / 2.0,
        };
        (rect, aside.abs())
    })
}

/// The nearest box of a grid over all of the chart.
fn anywhere(index: usize, wanted: &[Labelled], placed: &[Placed], around: &Surroundings) -> Placed {
    let label = &wanted[index];
    let Rect { left, top, right, bottom } = around.bounds;
    let mut found: Placed = None;
    let mut y = top;
    while y + label.height <= bottom {
        let mut x = left;
        while x + label.width <= right {
            let rect = Rect { left: x, top: y, right: x + label.width, bottom: y + label.height };
            let (from, to) = label.leader(&rect);
            let cost = distance(from, to);
            if found.is_none_or(|found| cost < found.cost) && is_free(&rect, wanted, placed, around) {
                found = Some(Candidate { rect, cost });
            }
            x += 8.0;
        }
        y += 4.0;
    }
    found
}

fn is_free(rect: &Rect, wanted: &[Labelled], placed: &[Placed], around: &Surroundings) -> bool {
    around.bounds.contains(rect)
        && around.blocked.iter().all(|blocked| !blocked.is_near(rect, GAP))
        && placed.iter().flatten().all(|other| !other.rect.is_near(rect, GAP))
        && wanted.iter().all(|marker| marker.distance(rect) > GAP)
}

/// What it costs a label to stand here, beside its distance.
fn penalty(index: usize, rect: &Rect, wanted: &[Labelled], placed: &[Placed], around: &Surroundings) -> f64 {
    let leader = wanted[index].leader(rect);
    let own = distance(leader.0, leader.1);
    let lines = around.lines.iter().filter(|(from, to, _)| crosses(&rect.inset(-2.0), (*from, *to)));
    let mut cost: f64 = lines.map(|(_, _, cost)| cost).sum();
    for (other, marker) in wanted.iter().enumerate().filter(|(other, _)| *other != index) {
        let gap = marker.distance(rect);
        if gap < own * 1.3 + 2.0 && gap < 20.0 {
            cost += MISLEADING;
        }
        // A leader from inside another marker crosses it whatever the label does.
        let inside = distance(marker.center, wanted[index].center) < marker.radius + wanted[index].radius;
        if !inside && reaches(leader, marker.center) < marker.radius + 1.0 {
            cost += OVER_MARKER;
        }
        let Some(Candidate { rect: label, .. }) = placed[other] else { continue };
        if label.is_near(rect, 9.0) {
            cost += CROWDED;
        }
        let other = marker.leader(&label);
        if crosses(&label.inset(-3.0), leader) || crosses(&rect.inset(-3.0), other) {
            cost += OVER_LABEL;
        }
        if intersect(leader, other) {
            cost += OVER_LEADER;
        }
    }
    cost
}

/// Whether a line goes through a box.
fn crosses(rect: &Rect, (from, to): (Spot, Spot)) -> bool {
    // What is left of the line after each side of the box has cut off what is outside of it.
    let (mut start, mut end) = (0.0_f64, 1.0_f64);
    for (from, delta, low, high) in
        [(from.0, to.0 - from.0, rect.left, rect.right), (from.1, to.1 - from.1, rect.top, rect.bottom)]
    {
        if delta.abs() < 1e-9 {
            if from < low || from > high {
                return false;
            }
            continue;
        }
        let (a, b) = ((low - from) / delta, (high - from) / delta);
        start = start.max(a.min(b));
        end = end.min(a.max(b));
    }
    start < end
}

/// How close a line comes to a place.
fn reaches((from, to): (Spot, Spot), at: Spot) -> f64 {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let part = ((at.0 - from.0) * dx + (at.1 - from.1) * dy) / (dx * dx + dy * dy).max(1e-9);
    let part = part.clamp(0.0, 1.0);
    distance(at, (from.0 + dx * part, from.1 + dy * part))
}

fn intersect(one: (Spot, Spot), other: (Spot, Spot)) -> bool {
    let side = |(a, b): (Spot, Spot), c: Spot| (b.0 - a.0) * (c.1 - a.1) - (b.1 - a.1) * (c.0 - a.0);
    side(one, other.0) * side(one, other.1) < 0.0 && side(other, one.0) * side(other, one.1) < 0.0
}

fn distance(a: Spot, b: Spot) -> f64 {
    (a.0 - b.0).hypot(a.1 - b.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Rect = Rect { left: 100.0, top: 100.0, right: 1000.0, bottom: 700.0 };

    fn surroundings() -> Surroundings {
        let blocked = vec![Rect { left: 500.0, top: 350.0, right: 600.0, bottom: 370.0 }];
        Surroundings { bounds: BOUNDS, blocked, lines: vec![((100.0, 400.0), (1000.0, 400.0), 50.0)] }
    }

    fn labelled(center: Spot, radius: f64) -> Labelled {
        Labelled { center, radius, width: 130.0, height: 15.0 }
    }

    fn assert_readable(wanted: &[Labelled], placed: &[Option<Rect>]) {
        for (index, rect) in placed.iter().enumerate() {
            let rect = rect.unwrap_or_else(|| panic!("no place for {index}"));
            assert!(BOUNDS.contains(&rect), "{rect:?}");
            assert!(surroundings().blocked.iter().all(|blocked| !blocked.is_near(&rect, 0.0)));
            for other in placed[..index].iter().flatten() {
                assert!(!rect.is_near(other, 0.0), "{rect:?} and {other:?}");
            }
            for marker in wanted {
                assert!(marker.distance(&rect) > 0.0, "{rect:?} and {marker:?}");
            }
        }
    }

    #[test]
    fn labels_of_markers_at_one_place_do_not_overlap() {
        for y in [105.0, 250.0, 400.0, 695.0] {
            let wanted: Vec<_> = (0..20).map(|i| labelled((550.0, y), 5.0 + f64::from(i))).collect();
            assert_readable(&wanted, &place(&wanted, &surroundings()));
        }
    }

    #[test]
    fn labels_of_markers_above_each_other_do_not_overlap() {
        for x in [100.0, 550.0, 1000.0] {
            let wanted: Vec<_> =
                (0..20).map(|i| labelled((x, 300.0 + 9.0 * f64::from(i)), 3.0 + f64::from(i % 4))).collect();
            assert_readable(&wanted, &place(&wanted, &surroundings()));
        }
    }

    #[test]
    fn placement_is_the_same_each_time() {
        let wanted: Vec<_> = (0..20).map(|i| labelled((300.0 + f64::from(i % 5), 400.0), 6.0)).collect();
        assert_eq!(place(&wanted, &surroundings()), place(&wanted, &surroundings()));
    }

    #[test]
    fn lone_label_stands_right_above_its_marker() {
        let wanted = [labelled((300.0, 250.0), 6.0)];
        let rect = place(&wanted, &surroundings())[0].unwrap();
        assert!((rect.left - 235.0).abs() < 1e-6 && (rect.bottom - 240.0).abs() < 1e-6, "{rect:?}");
    }

    #[test]
    fn label_without_room_has_no_place() {
        let wanted = [Labelled { width: 2000.0, ..labelled((300.0, 250.0), 6.0) }];
        assert_eq!(place(&wanted, &surroundings()), [None]);
    }

    #[test]
    fn lines_cross_boxes_they_go_through() {
        let rect = Rect { left: 10.0, top: 10.0, right: 20.0, bottom: 20.0 };
        assert!(crosses(&rect, ((0.0, 15.0), (30.0, 15.0))));
        assert!(crosses(&rect, ((0.0, 0.0), (30.0, 30.0))));
        assert!(!crosses(&rect, ((0.0, 25.0), (30.0, 25.0))));
        assert!(!crosses(&rect, ((0.0, 15.0), (9.0, 15.0))));
    }
}
