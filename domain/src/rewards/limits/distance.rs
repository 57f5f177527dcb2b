//! Minimum distance in integers: the chord between unit vectors × 2^30 against metres on a sphere.
//!
//! `|a − b|² × R² < metres² × 2^60` with R the mean Earth radius (IUGG: 6,371,008.8 m, here 6,371,009): no root, no sine,
//! the same on every machine. A grid of boxes as wide as the distance finds all that could be too close in 27 look-ups.

use std::collections::HashMap;

/// Mean Earth radius in metres.
const RADIUS: i128 = 6_371_009;
/// Length of a unit vector.
const UNIT: i128 = 1 << 30;

/// Points that are mutually far enough apart.
pub(super) struct Spacing {
    /// metres² × 2^60.
    limit: i128,
    /// Edge of a box, at least the distance.
    edge: i64,
    boxes: HashMap<[i64; 3], Vec<[i64; 3]>>,
}

impl Spacing {
    pub(super) fn new(metres: u32) -> Self {
        let metres = i128::from(metres);
        let edge = metres * UNIT / RADIUS + 1;
        Self {
            limit: metres * metres * UNIT * UNIT,
            edge: i64::try_from(edge).unwrap_or(i64::MAX),
            boxes: HashMap::new(),
        }
    }

    /// Puts a point in, whoever is near.
    pub(super) fn stand(&mut self, point: [i64; 3]) {
        self.boxes.entry(self.cell(point)).or_default().push(point);
    }

    /// Puts a point in if it is far enough from all that are there.
    pub(super) fn take(&mut self, point: [i64; 3]) -> bool {
        let free = !self.near(point);
        if free {
            self.stand(point);
        }
        free
    }

    fn cell(&self, point: [i64; 3]) -> [i64; 3] {
        point.map(|coordinate| coordinate.div_euclid(self.edge))
    }

    fn near(&self, point: [i64; 3]) -> bool {
        let [x, y, z] = self.cell(point);
        let around = |at: i64| [at.saturating_sub(1), at, at.saturating_add(1)];
        around(x).into_iter().any(|x| {
            around(y).into_iter().any(|y| {
                around(z).into_iter().any(|z| {
                    let neighbours = self.boxes.get(&[x, y, z]);
                    neighbours.is_some_and(|points| points.iter().any(|other| self.too_close(point, *other)))
                })
            })
        })
    }

    fn too_close(&self, a: [i64; 3], b: [i64; 3]) -> bool {
        let square = |i: usize| {
            let difference = i128::from(a[i]) - i128::from(b[i]);
            difference.checked_mul(difference)
        };
        let chord = square(0).zip(square(1)).and_then(|(x, y)| x.checked_add(y)).zip(square(2));
        // What does not fit is far away: unit vectors are at most 2^31 apart.
        chord
            .and_then(|(xy, z)| xy.checked_add(z))
            .and_then(|chord| chord.checked_mul(RADIUS * RADIUS))
            .is_some_and(|chord| chord < self.limit)
    }
}
