//! The figures that the proxy is held to, beside what was measured.

use super::mode::Mode;
use super::peers::Peer;
use super::results::{Results, Sample, added_p99, errors, median_of};
use crate::report;

/// CPU per request, as a share of others'.
const RATIOS: [(&[Mode], &str, &[Peer], f64); 7] = [
    (
        &[Mode::Small, Mode::TenK],
        "the better of nginx and HAProxy",
        &PAIR,
        0.95,
    ),
    (&TLS, "the better of nginx and HAProxy", &PAIR, 1.0),
    (&[Mode::OneM], "the best of all", &OTHERS, 1.0),
    (&SMALL, "pingora", &[Peer::Pingora], 0.7),
    (
        &SMALL,
        "the better of Traefik and Caddy",
        &[Peer::Traefik, Peer::Caddy],
        0.4,
    ),
    (
        &[Mode::StaticK, Mode::OtherNode],
        "nginx",
        &[Peer::Nginx],
        1.0,
    ),
    (&[Mode::StaticM], "nginx", &[Peer::Nginx], 1.1),
];
const PAIR: [Peer; 2] = [Peer::Nginx, Peer::Haproxy];
const OTHERS: [Peer; 5] = [
    Peer::Nginx,
    Peer::Haproxy,
    Peer::Pingora,
    Peer::Traefik,
    Peer::Caddy,
];
const TLS: [Mode; 3] = [Mode::TlsH1, Mode::TlsH2, Mode::TlsH2Ten];
const SMALL: [Mode; 4] = [Mode::Small, Mode::TlsH1, Mode::TlsH2, Mode::TlsH2Ten];
/// KB for each idle connection.
const IDLE: [(Mode, f64); 3] = [
    (Mode::Idle, 12.0),
    (Mode::IdleTls, 40.0),
    (Mode::IdleH2, 40.0),
];

#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    pub what: String,
    pub of: String,
    pub measured: String,
    pub at_most: String,
    /// `None` where something that is needed was not measured.
    pub pass: Option<bool>,
}

impl Verdict {
    pub fn row(&self) -> Vec<String> {
        let result = match self.pass {
            Some(true) => "pass",
            Some(false) => "short",
            None => "not measured",
        };
        let texts = [&self.what, &self.of, &self.measured, &self.at_most];
        let mut row: Vec<String> = texts.map(String::clone).into();
        row.push(result.to_owned());
        row
    }

    fn missing(what: String, of: &str, at_most: String) -> Verdict {
        Verdict {
            what,
            of: of.to_owned(),
            measured: "-".to_owned(),
            at_most,
            pass: None,
        }
    }
}

pub fn verdicts(results: &Results, modes: &[Mode]) -> Vec<Verdict> {
    let wanted = |mode: &Mode| modes.contains(mode);
    let mut all = Vec::new();
    for (group, of, peers, limit) in RATIOS {
        for mode in group.iter().filter(|m| wanted(m)) {
            all.push(ratio(results, *mode, of, peers, limit));
        }
    }
    if wanted(&Mode::HalfLoad) {
        all.push(half_load(results));
    }
    for (mode, limit) in IDLE.iter().filter(|(m, _)| wanted(m)) {
        all.push(idle(results, *mode, *limit));
    }
    if wanted(&Mode::Table) {
        all.push(table(results));
    }
    all
}

fn samples(results: &Results, mode: Mode, peer: Peer) -> Option<&[Sample]> {
    let rounds = results.load.get(&(mode, peer))?.as_ref().ok()?;
    let whole = !rounds.is_empty() && rounds.iter().all(|s| s.cpu_us.is_finite());
    whole.then_some(rounds)
}

fn cpu(samples: &[Sample]) -> f64 {
    median_of(samples, |s| s.cpu_us)
}

/// The median of the rounds' ratios: both sides of each were measured within seconds of each other.
fn ratio(results: &Results, mode: Mode, of: &str, peers: &[Peer], limit: f64) -> Verdict {
    let what = format!("CPU per request, {}", mode.name());
    let at_most = format!("{limit:.2}");
    let best = peers
        .iter()
        .filter_map(|peer| Some((*peer, samples(results, mode, *peer)?)))
        .min_by(|(_, a), (_, b)| cpu(a).total_cmp(&cpu(b)));
    let (Some(ours), Some((peer, theirs))) = (samples(results, mode, Peer::Nebula), best) else {
        return Verdict::missing(what, of, at_most);
    };
    let ratios = ours.iter().zip(theirs).map(|(a, b)| a.cpu_us / b.cpu_us);
    let ratio = report::median(ratios.collect());
    let failed = errors(ours);
    let measured = match failed {
        0 => format!("{ratio:.2}"),
        failed => format!("{ratio:.2}, {failed} errors"),
    };
    let of = if peers.len() > 1 {
        format!("{of}: {}", peer.name())
    } else {
        of.to_owned()
    };
    Verdict {
        what,
        of,
        measured,
        at_most,
        pass: Some(failed == 0 && ratio <= limit),
    }
}

fn half_load(results: &Results) -> Verdict {
    let what = "added p99 at half load, ms".to_owned();
    let of = "HAProxy";
    let added = |peer| {
        let samples = samples(results, Mode::HalfLoad, peer)?;
        let added = added_p99(samples, &results.direct);
        added.is_finite().then(|| (added, errors(samples)))
    };
    let (Some((ours, failed)), Some((theirs, _))) = (added(Peer::Nebula), added(Peer::Haproxy))
    else {
        return Verdict::missing(what, of, "-".to_owned());
    };
    Verdict {
        what,
        of: of.to_owned(),
        measured: format!("{ours:.2}"),
        at_most: format!("{theirs:.2}"),
        pass: Some(failed == 0 && ours <= theirs),
    }
}

fn idle(results: &Results, mode: Mode, limit: f64) -> Verdict {
    let what = format!("memory, {}, KB", mode.name());
    let at_most = format!("{limit:.0}");
    let rounds = results.idle.get(&(mode, Peer::Nebula));
    let Some(Ok(rounds)) = rounds else {
        return Verdict::missing(what, "a connection", at_most);
    };
    let kb = report::median(rounds.clone());
    Verdict {
        what,
        of: "a connection".to_owned(),
        measured: format!("{kb:.1}"),
        at_most,
        pass: Some(kb <= limit),
    }
}

/// p99 counts as unchanged while the median with replacements lies within what the rounds without them came to.
fn table(results: &Results) -> Verdict {
    let what = "p99 while the table is replaced, ms".to_owned();
    let of = "the slowest round without";
    let Some(Ok(rounds)) = &results.table else {
        return Verdict::missing(what, of, "-".to_owned());
    };
    let p99 = report::median(rounds.iter().map(|r| r.replaced.p99_ms).collect());
    let slowest = rounds.iter().map(|r| r.still.p99_ms).fold(0.0, f64::max);
    let failed: u64 = rounds.iter().map(|r| r.replaced.errors).sum();
    Verdict {
        what,
        of: of.to_owned(),
        measured: format!("{p99:.2}, {failed} errors"),
        at_most: format!("{slowest:.2}, 0 errors"),
        pass: Some(failed == 0 && p99 <= slowest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(cpu: &[f64], errors: u64) -> Result<Vec<Sample>, String> {
        let sample = |cpu_us: &f64| Sample {
            requests: 1,
            errors,
            cpu_us: *cpu_us,
            edge_cpu_us: 0.0,
            requests_per_second: 1.0,
            p50_ms: 1.0,
            p99_ms: *cpu_us,
        };
        Ok(cpu.iter().map(sample).collect())
    }

    fn with(ours: &[f64], failed: u64) -> Results {
        let mut results = Results::default();
        let mut put = |peer, rounds| results.load.insert((Mode::Small, peer), rounds);
        put(Peer::Nebula, rounds(ours, failed));
        put(Peer::Nginx, rounds(&[10.0, 20.0, 40.0], 0));
        put(Peer::Haproxy, rounds(&[11.0, 22.0, 44.0], 0));
        put(Peer::Pingora, Err("not here".to_owned()));
        results
    }

    #[test]
    fn each_round_is_compared_with_itself() {
        let all = verdicts(&with(&[9.0, 18.0, 36.0], 0), &[Mode::Small]);
        assert_eq!(all[0].of, "the better of nginx and HAProxy: nginx");
        assert_eq!(
            (all[0].measured.as_str(), all[0].pass),
            ("0.90", Some(true))
        );
        assert_eq!(all[1].pass, None, "pingora was not there");
        let all = verdicts(&with(&[10.0, 20.0, 40.0], 0), &[Mode::Small]);
        assert_eq!(all[0].pass, Some(false));
    }

    #[test]
    fn errors_are_no_pass() {
        let all = verdicts(&with(&[1.0, 1.0, 1.0], 2), &[Mode::Small]);
        assert_eq!(all[0].pass, Some(false));
        assert!(all[0].measured.ends_with("6 errors"));
    }

    #[test]
    fn what_was_not_asked_for_is_not_judged() {
        assert_eq!(verdicts(&Results::default(), &[]), []);
        let all = verdicts(&Results::default(), &Mode::all());
        assert!(all.iter().all(|v| v.pass.is_none()));
    }

    #[test]
    fn p99_is_what_comes_on_top() {
        let mut results = Results::default();
        let mut put = |peer, rounds| results.load.insert((Mode::HalfLoad, peer), rounds);
        put(Peer::Nebula, rounds(&[3.0, 3.0], 0));
        put(Peer::Haproxy, rounds(&[2.5, 2.5], 0));
        results.direct = rounds(&[2.0, 2.0], 0).unwrap();
        let all = verdicts(&results, &[Mode::HalfLoad]);
        assert_eq!(
            (all[0].measured.as_str(), all[0].at_most.as_str()),
            ("1.00", "0.50")
        );
        assert_eq!(all[0].pass, Some(false));
    }
}
