//! Judges a direction in which requests arrived.

use std::time::Duration;

use super::{cause::RouterError, path_mtu::PathMtu, times::Results};

/// What arrived.
#[derive(Clone, Copy, Debug)]
pub struct Arrived<'a> {
    /// The small requests.
    pub results: &'a Results,
    /// The path MTU, if it was searched.
    pub path_mtu: Option<PathMtu>,
    /// The last Packet Too Big.
    pub too_big: Option<RouterError>,
    /// The largest size that was to be tried.
    pub largest: u32,
}

/// A sentence about a direction, and whether it works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The reason why it fails, for scripts.
    pub cause: Option<&'static str>,
    /// The sentence, without its subject.
    pub sentence: String,
    /// What to do, if anything.
    pub hint: Option<String>,
}

impl Judgement {
    /// Whether it works.
    #[must_use]
    pub const fn pass(&self) -> bool {
        self.cause.is_none()
    }
}

/// Judges a direction.
#[must_use]
pub fn judge(arrived: &Arrived<'_>) -> Judgement {
    let Arrived {
        results, path_mtu, ..
    } = arrived;
    let is_too_small = *path_mtu == Some(PathMtu::TooSmall);
    let sentence = [loss(results), times(results), size(arrived)].concat();
    let (cause, hint) = if is_too_small {
        let hint = "IPv6 needs 1280 bytes on every path: is the MTU of a tunnel larger than its outer path takes?";
        (Some("path_mtu"), Some(hint))
    } else if results.pass() {
        let lower = "packets between these sizes disappear without an error: set the mtu of the tunnels, or clamp the MSS of TCP";
        (None, is_black_hole(arrived).then_some(lower))
    } else {
        let hint = "sixxs check pings each tunnel, and shows which of the two loses packets";
        (Some("loss"), Some(hint))
    };
    Judgement {
        cause,
        sentence,
        hint: hint.map(str::to_owned),
    }
}

/// Whether large packets are lost, and no router reports that.
const fn is_black_hole(arrived: &Arrived<'_>) -> bool {
    matches!(
        arrived.path_mtu,
        Some(PathMtu::Exactly(_) | PathMtu::Between(..))
    ) && arrived.too_big.is_none()
}

fn loss(results: &Results) -> String {
    let (sent, came) = (results.sent, results.arrived());
    match results.loss_percent() {
        Some(percent) if came < sent => format!("{came} of {sent} arrived ({percent:.0} % lost)"),
        _ => format!("{came} of {sent} arrived"),
    }
}

fn times(results: &Results) -> String {
    let ms = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1000.0);
    let times = results.times().map(|times| {
        let (least, median, most) = (ms(times.least), ms(times.median), ms(times.most));
        format!(" after {median} ms ({least} to {most})")
    });
    times.unwrap_or_default()
}

fn size(arrived: &Arrived<'_>) -> String {
    let reported = match &arrived.too_big {
        Some(error) => format!("{} reports {}", error.router, error.value),
        None => "no router reports that".to_owned(),
    };
    match arrived.path_mtu {
        None => "; path MTU not known: the time was up".to_owned(),
        Some(PathMtu::Largest(bytes)) => {
            format!("; path MTU {bytes}, all that the interface takes")
        }
        Some(PathMtu::Exactly(bytes)) => {
            format!("; path MTU {bytes} of {} ({reported})", arrived.largest)
        }
        Some(PathMtu::Between(bytes, too_big)) => {
            format!("; path MTU from {bytes} to {} ({reported})", too_big - 1)
        }
        Some(PathMtu::TooSmall) => format!("; packets of 1280 bytes do not arrive ({reported})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(arrived: usize) -> Results {
        Results::new(10, vec![Duration::from_micros(12_340); arrived])
    }

    fn judged(arrived: usize, path_mtu: Option<PathMtu>, named: Option<u32>) -> Judgement {
        judge(&Arrived {
            results: &results(arrived),
            path_mtu,
            too_big: named.map(|value| RouterError {
                router: "2001:db8::1".parse().unwrap(),
                kind: 2,
                code: 0,
                value,
            }),
            largest: 1480,
        })
    }

    #[test]
    fn a_working_direction_passes() {
        let found = judged(10, Some(PathMtu::Largest(1480)), None);
        assert!(found.pass() && found.hint.is_none());
        assert_eq!(
            found.sentence,
            "10 of 10 arrived after 12.3 ms (12.3 to 12.3); path MTU 1480, all that the interface takes"
        );
        let found = judged(8, Some(PathMtu::Exactly(1400)), Some(1400));
        assert!(found.pass() && found.hint.is_none(), "{found:?}");
        assert!(
            found
                .sentence
                .starts_with("8 of 10 arrived (20 % lost) after"),
            "{found:?}"
        );
        assert!(
            found
                .sentence
                .ends_with("; path MTU 1400 of 1480 (2001:db8::1 reports 1400)"),
            "{found:?}"
        );
    }

    #[test]
    fn silence_about_large_packets_is_shown() {
        let found = judged(10, Some(PathMtu::Exactly(1400)), None);
        assert!(found.pass());
        assert!(
            found.sentence.ends_with("(no router reports that)"),
            "{found:?}"
        );
        assert!(found.hint.is_some_and(|hint| hint.contains("MSS")));
        let early = judged(10, Some(PathMtu::Between(1280, 1400)), None);
        assert!(early.sentence.contains("from 1280 to 1399"), "{early:?}");
        assert!(judged(10, None, None).sentence.contains("not known"));
    }

    #[test]
    fn loss_and_small_paths_fail() {
        let lossy = judged(7, Some(PathMtu::Largest(1480)), None);
        assert_eq!(lossy.cause, Some("loss"));
        let small = judged(10, Some(PathMtu::TooSmall), None);
        assert_eq!(small.cause, Some("path_mtu"));
        assert!(!small.pass());
        assert!(small.hint.is_some_and(|hint| hint.contains("1280")));
    }
}
