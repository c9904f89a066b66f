//! The breakpoints and watchpoints that a client has set. They are for all CPUs.

use ostler_accel::{DebugLimits, DebugRequest, WatchKind, Watchpoint};

use super::target::{NoPoint, Point, PointKind};

/// Most points of a client; the software CPU itself has no limit.
const MOST: usize = 1000;

/// A client's points.
#[derive(Debug, Default)]
pub(super) struct Points(Vec<Point>);

impl Points {
    /// Adds a point, as far as `limits` have room.
    pub fn insert(&mut self, point: Point, limits: &DebugLimits) -> Result<(), NoPoint> {
        if self.0.contains(&point) {
            return Ok(());
        }
        if let PointKind::Watch(kind) = point.kind {
            if kind == WatchKind::Read && !limits.reads {
                return Err(NoPoint::Unsupported);
            }
            let fits = matches!(point.len, 1 | 2 | 4 | 8) && point.linear.is_multiple_of(point.len);
            if limits.aligned && !fits {
                return Err(NoPoint::Refused);
            }
        }
        if self.0.len() >= limits.points.min(MOST) {
            return Err(NoPoint::Refused);
        }
        self.0.push(point);
        Ok(())
    }

    /// Takes a point away.
    pub fn remove(&mut self, point: Point) {
        self.0.retain(|known| *known != point);
    }

    /// What the breakpoint at `linear` was called.
    pub fn kind_at(&self, linear: u64) -> PointKind {
        self.0
            .iter()
            .find(|point| point.linear == linear && !matches!(point.kind, PointKind::Watch(_)))
            .map_or(PointKind::Software, |point| point.kind)
    }

    /// True if there is a watchpoint of that kind at `linear`.
    pub fn watches(&self, linear: u64, kind: WatchKind) -> bool {
        self.0
            .iter()
            .any(|point| point.linear == linear && point.kind == PointKind::Watch(kind))
    }

    /// What a CPU is asked for.
    pub fn request(&self, step: bool, patched: Vec<u64>) -> DebugRequest {
        let mut request = DebugRequest {
            step,
            patched,
            ..DebugRequest::default()
        };
        for point in &self.0 {
            match point.kind {
                PointKind::Watch(kind) => request.watchpoints.push(Watchpoint {
                    linear: point.linear,
                    len: point.len,
                    kind,
                }),
                _ if request.breakpoints.contains(&point.linear) => {}
                _ => request.breakpoints.push(point.linear),
            }
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOFT: DebugLimits = DebugLimits {
        points: usize::MAX,
        reads: true,
        aligned: false,
    };
    const HARD: DebugLimits = DebugLimits {
        points: 4,
        reads: false,
        aligned: true,
    };

    fn point(kind: PointKind, linear: u64, len: u64) -> Point {
        Point { kind, linear, len }
    }

    #[test]
    fn the_limits_are_kept() {
        let mut points = Points::default();
        let write = PointKind::Watch(WatchKind::Write);
        assert_eq!(
            points.insert(point(PointKind::Watch(WatchKind::Read), 8, 8), &HARD),
            Err(NoPoint::Unsupported)
        );
        for (linear, len) in [(1, 2), (8, 3), (4, 8)] {
            assert_eq!(
                points.insert(point(write, linear, len), &HARD),
                Err(NoPoint::Refused)
            );
        }
        for linear in 0..4 {
            assert_eq!(points.insert(point(write, linear, 1), &HARD), Ok(()));
            assert_eq!(points.insert(point(write, linear, 1), &HARD), Ok(()), "again");
        }
        assert_eq!(points.insert(point(write, 9, 1), &HARD), Err(NoPoint::Refused));
        for linear in 0..2000 {
            let _ = points.insert(point(PointKind::Software, linear, 1), &SOFT);
        }
        assert_eq!(points.0.len(), MOST);
    }

    #[test]
    fn a_request_has_each_address_once_and_what_was_removed_is_gone() {
        let mut points = Points::default();
        for kind in [PointKind::Software, PointKind::Hardware] {
            points.insert(point(kind, 0x1000, 1), &SOFT).unwrap();
        }
        let watch = point(PointKind::Watch(WatchKind::Access), 0x2001, 3);
        points.insert(watch, &SOFT).unwrap();
        let request = points.request(true, vec![7]);
        assert_eq!((request.step, &request.patched[..]), (true, &[7][..]));
        assert_eq!(
            (&request.breakpoints[..], request.watchpoints.len()),
            (&[0x1000][..], 1)
        );
        assert!(points.watches(0x2001, WatchKind::Access) && !points.watches(0x2001, WatchKind::Write));
        points.remove(point(PointKind::Software, 0x1000, 1));
        assert_eq!(points.kind_at(0x1000), PointKind::Hardware);
        points.remove(watch);
        points.remove(point(PointKind::Hardware, 0x1000, 1));
        assert_eq!(points.request(false, Vec::new()), DebugRequest::default());
    }
}
