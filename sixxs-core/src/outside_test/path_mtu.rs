//! The search for the path MTU, by halving.
//!
//! ```text
//! the largest size arrives                        done
//! it does not; a router names a size              that size, then the one above it
//! else                                            1280, then the middle, and so on
//! ```
//!
//! Only packets that arrive prove a size: a Packet Too Big may be missing, or forged.

use crate::types::Mtu;

/// The sizes that are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Search {
    /// The largest size that is tried.
    largest: u32,
    /// The largest size that arrived; 0: none.
    fits: u32,
    /// The smallest size that did not.
    too_big: u32,
    /// The size that a router named last.
    named: Option<u32>,
}

/// The result of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathMtu {
    /// The largest size that was tried arrives.
    Largest(u32),
    /// This size arrives, and one byte more does not.
    Exactly(u32),
    /// The first size arrives and the second one does not; the search ended early.
    Between(u32, u32),
    /// Not even the smallest MTU of IPv6 arrives (RFC 8200 §5).
    TooSmall,
}

impl PathMtu {
    /// The largest size that is known to arrive, at least 1280.
    #[must_use]
    pub const fn bytes(self) -> Option<u32> {
        match self {
            Self::Largest(bytes) | Self::Exactly(bytes) | Self::Between(bytes, _) => Some(bytes),
            Self::TooSmall => None,
        }
    }

    /// The smallest size that did not arrive; `None`: the largest that was tried did.
    #[must_use]
    pub const fn too_big(self) -> Option<u32> {
        match self {
            Self::Largest(_) => None,
            Self::Exactly(bytes) => Some(bytes + 1),
            Self::Between(_, too_big) => Some(too_big),
            Self::TooSmall => Some(Mtu::MINIMUM.0),
        }
    }
}

impl Search {
    /// A search up to a size; it is at least 1280.
    #[must_use]
    pub const fn new(largest: u32) -> Self {
        let largest = if largest < Mtu::MINIMUM.0 {
            Mtu::MINIMUM.0
        } else {
            largest
        };
        Self {
            largest,
            fits: 0,
            too_big: largest.saturating_add(1),
            named: None,
        }
    }

    /// The next size to try; `None`: the search has ended.
    #[must_use]
    pub fn next(&self) -> Option<u32> {
        if self.fits.saturating_add(1) >= self.too_big {
            return None;
        }
        if self.too_big > self.largest {
            return Some(self.largest);
        }
        let is_left = |size: &u32| self.fits < *size && *size < self.too_big;
        // The size that a router named, and when that fits, the next one.
        let named = self.named.filter(|size| *size >= Mtu::MINIMUM.0);
        let above = named.filter(|size| *size == self.fits).map(|size| size + 1);
        if let Some(size) = named.filter(is_left).or(above.filter(is_left)) {
            return Some(size);
        }
        if self.fits == 0 {
            return Some(Mtu::MINIMUM.0).filter(is_left);
        }
        Some(self.fits.midpoint(self.too_big))
    }

    /// Records whether a size arrived, and the size that a router named instead.
    pub fn record(&mut self, size: u32, arrived: bool, named: Option<u32>) {
        if arrived {
            self.fits = self.fits.max(size);
        } else {
            self.too_big = self.too_big.min(size);
            self.named = named.or(self.named);
        }
    }

    /// The result, at the end or before it; `None`: nothing has been tried.
    #[must_use]
    pub const fn result(&self) -> Option<PathMtu> {
        Some(if self.fits == self.largest {
            PathMtu::Largest(self.fits)
        } else if self.fits == 0 {
            if self.too_big > Mtu::MINIMUM.0 {
                return None;
            }
            PathMtu::TooSmall
        } else if self.fits + 1 == self.too_big {
            PathMtu::Exactly(self.fits)
        } else {
            PathMtu::Between(self.fits, self.too_big)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches on a path of this MTU, whose router names `named`. Returns the result and the sizes tried.
    fn search(largest: u32, mtu: u32, named: Option<u32>) -> (Option<PathMtu>, Vec<u32>) {
        let mut search = Search::new(largest);
        let mut tried = Vec::new();
        while let Some(size) = search.next() {
            tried.push(size);
            assert!(tried.len() < 40, "{tried:?}");
            let arrived = size <= mtu;
            search.record(size, arrived, named.filter(|_| !arrived));
        }
        (search.result(), tried)
    }

    #[test]
    fn every_path_mtu_is_found() {
        for largest in [1280, 1281, 1420, 1480, 1500, 3500] {
            for mtu in 1280..=largest {
                let (found, tried) = search(largest, mtu, None);
                let expected = if mtu == largest {
                    PathMtu::Largest(mtu)
                } else {
                    PathMtu::Exactly(mtu)
                };
                assert_eq!(found, Some(expected), "{largest} {mtu}: {tried:?}");
                assert!(tried.len() <= 14, "{tried:?}");
            }
        }
        assert_eq!(search(1500, 1280, None).1.len(), 9);
    }

    #[test]
    fn a_full_path_takes_one_size() {
        let (found, tried) = search(1480, 9000, None);
        assert_eq!(tried, [1480]);
        assert_eq!(found.unwrap().too_big(), None);
    }

    #[test]
    fn less_than_the_smallest_mtu_is_no_path() {
        for largest in [1280, 1480] {
            let (found, tried) = search(largest, 1279, None);
            assert_eq!(found, Some(PathMtu::TooSmall));
            assert!(tried.len() <= 2, "{tried:?}");
        }
        // A smaller size is not tried, even if a router names it.
        assert_eq!(search(1480, 1279, Some(600)).1, [1480, 1280]);
        assert_eq!(PathMtu::TooSmall.bytes(), None);
        assert_eq!(PathMtu::TooSmall.too_big(), Some(1280));
        // A smaller interface cannot be, and does not matter.
        assert_eq!(Search::new(0).next(), Some(1280));
    }

    #[test]
    fn a_router_shortens_the_search() {
        assert_eq!(
            search(1500, 1400, Some(1400)),
            (Some(PathMtu::Exactly(1400)), vec![1500, 1400, 1401])
        );
    }

    #[test]
    fn wrong_sizes_do_not_change_the_result() {
        for named in [0, 1, 1279, 1280, 1300, 1399, 1450, 1500, 1501, u32::MAX] {
            let (found, tried) = search(1500, 1400, Some(named));
            assert_eq!(found, Some(PathMtu::Exactly(1400)), "{named}: {tried:?}");
        }
    }

    #[test]
    fn a_search_may_end_early() {
        let mut search = Search::new(1500);
        assert_eq!(search.result(), None);
        search.record(1500, false, None);
        assert_eq!(search.result(), None);
        search.record(1280, true, None);
        assert_eq!(search.result(), Some(PathMtu::Between(1280, 1500)));
        assert_eq!(search.result().unwrap().too_big(), Some(1500));
        assert_eq!(PathMtu::Exactly(1400).too_big(), Some(1401));
    }
}
