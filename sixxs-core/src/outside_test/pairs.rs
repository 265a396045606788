//! Which links are tested with each other.

/// The maximum number of pairs at a time, so that the answer comes before a client gives up.
pub const MOST_PAIRS: usize = 32;

/// Pairs of indices of links: each link and the next one of a ring, so that each link sends and receives. A pair of two
/// uplinks is left out: no tunnel is tested by it.
#[must_use]
pub fn ring(is_tunnel: &[bool]) -> Vec<(usize, usize)> {
    let count = is_tunnel.len();
    // Two links are one pair.
    let pairs = match count {
        0 | 1 => 0,
        2 => 1,
        _ => count,
    };
    (0..pairs)
        .map(|first| (first, (first + 1) % count))
        .filter(|(first, second)| is_tunnel[*first] || is_tunnel[*second])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_link_has_two_neighbours() {
        let (tunnel, uplink) = (true, false);
        assert_eq!(ring(&[]), []);
        assert_eq!(ring(&[tunnel]), []);
        assert_eq!(ring(&[tunnel, tunnel]), [(0, 1)]);
        assert_eq!(ring(&[tunnel, uplink]), [(0, 1)]);
        assert_eq!(ring(&[uplink, uplink]), []);
        assert_eq!(ring(&[tunnel, tunnel, uplink]), [(0, 1), (1, 2), (2, 0)]);
        assert_eq!(ring(&[tunnel, uplink, uplink]), [(0, 1), (2, 0)]);
        assert_eq!(ring(&[tunnel; 5]).len(), 5);
    }
}
