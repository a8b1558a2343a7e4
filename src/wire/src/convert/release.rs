//! How a release takes over and what it may use, between text and the domain's types.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use nebula_domain::excerpt::excerpt;
use nebula_domain::isolation::Isolation;
use nebula_domain::resources::Resources;
use nebula_domain::rollout::Order;
use nebula_domain::spec::{
    Amount, CanaryStep, DEFAULT_SURGE, DEFAULT_WARM, Judge, Strategy, Takeover,
};
use nebula_domain::text::{nearest, parse_duration, show_duration};
use nebula_domain::traffic::{parse_switch, show_switch};

use crate::api::{self, ApiError, ReleaseStrategy};

const ROLLING: &str = "rolling";
const BLUE_GREEN: &str = "blue-green";
const CANARY: &str = "canary";
const RECREATE: &str = "recreate";

fn bad(field: &str, reason: impl Display) -> ApiError {
    let message = format!("{field}: {reason}");
    ApiError::bad_request(message, "see docs/releases.md")
}

fn read<T: FromStr<Err: Display>>(field: &str, text: &str) -> Result<T, ApiError> {
    text.parse().map_err(|e| bad(field, e))
}

pub(super) fn optional<T: FromStr<Err: Display>>(
    field: &str,
    text: Option<&String>,
) -> Result<Option<T>, ApiError> {
    text.map(|text| read(field, text)).transpose()
}

pub(super) fn time(
    field: &str,
    text: Option<&String>,
    default: Duration,
) -> Result<Duration, ApiError> {
    let Some(text) = text else {
        return Ok(default);
    };
    parse_duration(text).ok_or_else(|| {
        let text = excerpt(text);
        bad(
            field,
            format!("'{text}' is not a time, such as 500ms, 30s or 5m"),
        )
    })
}

/// One of these words, or which is nearest.
fn one_of<'a>(field: &str, text: &str, words: &[&'a str]) -> Result<&'a str, ApiError> {
    if let Some(word) = words.iter().find(|word| **word == text) {
        return Ok(word);
    }
    let hint = match nearest(text, words.iter().copied()) {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("use one of {}", words.join(", ")),
    };
    Err(bad(field, format!("'{}' is none: {hint}", excerpt(text))))
}

/// A strategy as it arrives. What keeps folders ends before it begins again, unless another way is named.
pub(super) fn strategy(wire: &ReleaseStrategy, keeps: bool) -> Result<Strategy, ApiError> {
    let default = Strategy::default();
    let kinds = [ROLLING, BLUE_GREEN, CANARY, RECREATE];
    let kind = match &wire.kind {
        None if keeps => RECREATE,
        None => ROLLING,
        Some(text) => one_of("strategy.type", text, &kinds)?,
    };
    for (given, field, of) in [
        (wire.surge.is_some(), "surge", ROLLING),
        (wire.unavailable.is_some(), "unavailable", ROLLING),
        (wire.warm.is_some(), "warm", BLUE_GREEN),
        (!wire.steps.is_empty(), "steps", CANARY),
    ] {
        if given && kind != of {
            return Err(bad(
                &format!("strategy.{field}"),
                format!("only the strategy '{of}' has it, and this is '{kind}'"),
            ));
        }
    }
    let takeover = match kind {
        BLUE_GREEN => Takeover::BlueGreen {
            warm: time("strategy.warm", wire.warm.as_ref(), DEFAULT_WARM)?,
        },
        CANARY if wire.steps.is_empty() => Takeover::default_canary(),
        CANARY => Takeover::Canary {
            steps: wire
                .steps
                .iter()
                .map(|step| read::<CanaryStep>("strategy.steps", step))
                .collect::<Result<_, _>>()?,
        },
        RECREATE => Takeover::Recreate,
        _ => Takeover::Rolling {
            surge: optional("strategy.surge", wire.surge.as_ref())?.unwrap_or(DEFAULT_SURGE),
            unavailable: optional("strategy.unavailable", wire.unavailable.as_ref())?
                .unwrap_or(Amount::Count(0)),
        },
    };
    Ok(Strategy {
        takeover,
        watch: time("strategy.watch", wire.watch.as_ref(), default.watch)?,
        deadline: time(
            "strategy.deadline",
            wire.deadline.as_ref(),
            default.deadline,
        )?,
        rollback: wire.rollback.unwrap_or(default.rollback),
        judge: match &wire.judge {
            None => default.judge,
            Some(text) => parse_switch::<Judge>(text).map_err(|e| bad("strategy.judge", e))?,
        },
    })
}

/// As [`strategy`] reads it; what has its default is left out.
pub(super) fn told_strategy(strategy: &Strategy) -> ReleaseStrategy {
    let default = Strategy::default();
    let shown = |time: Duration, default: Duration| {
        (time != default).then(|| show_duration(time).to_string())
    };
    let mut wire = ReleaseStrategy {
        watch: shown(strategy.watch, default.watch),
        deadline: shown(strategy.deadline, default.deadline),
        rollback: (strategy.rollback != default.rollback).then_some(strategy.rollback),
        judge: (strategy.judge != default.judge).then(|| show_switch(strategy.judge.as_ref())),
        ..ReleaseStrategy::default()
    };
    if strategy.takeover != default.takeover {
        wire.kind = Some(strategy.takeover.name().to_owned());
    }
    match &strategy.takeover {
        Takeover::Rolling { surge, unavailable } => {
            wire.kind = None;
            wire.surge = (*surge != DEFAULT_SURGE).then(|| surge.to_string());
            let none = Amount::Count(0);
            wire.unavailable = (*unavailable != none).then(|| unavailable.to_string());
        }
        Takeover::BlueGreen { warm } => wire.warm = shown(*warm, DEFAULT_WARM),
        canary @ Takeover::Canary { steps } if *canary != Takeover::default_canary() => {
            wire.steps = steps.iter().map(ToString::to_string).collect();
        }
        Takeover::Canary { .. } | Takeover::Recreate => {}
    }
    wire
}

/// Resources as they arrive; their bounds are the spec's to check.
pub(super) fn resources(wire: &api::Resources) -> Result<Resources, ApiError> {
    let default = Resources::default();
    Ok(Resources {
        memory: optional("resources.memory", wire.memory.as_ref())?,
        cpu: optional("resources.cpu", wire.cpu.as_ref())?,
        pids: wire.pids.unwrap_or(default.pids),
        files: wire.files.unwrap_or(default.files),
        disk: optional("resources.disk", wire.disk.as_ref())?,
    })
}

pub(super) fn told_resources(resources: &Resources) -> api::Resources {
    let default = Resources::default();
    api::Resources {
        memory: resources.memory.map(|memory| memory.to_string()),
        cpu: resources.cpu.map(|cpu| cpu.to_string()),
        pids: (resources.pids != default.pids).then_some(resources.pids),
        files: (resources.files != default.files).then_some(resources.files),
        disk: resources.disk.map(|disk| disk.to_string()),
    }
}

pub(super) fn isolation(wire: &api::Isolation) -> Result<Isolation, ApiError> {
    let default = Isolation::default();
    let profile = optional("isolation.profile", wire.profile.as_ref())?;
    let network = optional("isolation.network", wire.network.as_ref())?;
    Ok(Isolation {
        profile: profile.unwrap_or(default.profile),
        network: network.unwrap_or(default.network),
    })
}

pub(super) fn told_isolation(isolation: &Isolation) -> api::Isolation {
    let default = Isolation::default();
    let Isolation { profile, network } = isolation;
    api::Isolation {
        profile: (*profile != default.profile).then(|| profile.to_string()),
        network: (*network != default.network).then(|| network.to_string()),
    }
}

/// `pause`, `resume`, `promote` or `abort`.
pub fn order(text: &str) -> Result<Order, ApiError> {
    let orders = [
        ("pause", Order::Pause),
        ("resume", Order::Resume),
        ("promote", Order::Promote),
        ("abort", Order::Abort),
    ];
    let word = one_of("order", text, &orders.map(|(word, _)| word))?;
    let found = orders.into_iter().find(|(other, _)| *other == word);
    found
        .map(|(_, order)| order)
        .ok_or_else(|| bad("order", "it is none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(kind: &str) -> ReleaseStrategy {
        ReleaseStrategy {
            kind: Some(kind.to_owned()),
            ..ReleaseStrategy::default()
        }
    }

    #[test]
    fn strategies_survive_being_told() {
        let some = |text: &str| Some(text.to_owned());
        let told = [
            ReleaseStrategy::default(),
            ReleaseStrategy {
                surge: some("2"),
                unavailable: some("10%"),
                watch: some("0"),
                judge: some("off"),
                rollback: Some(false),
                ..ReleaseStrategy::default()
            },
            ReleaseStrategy {
                warm: some("5m"),
                deadline: some("1m"),
                ..with(BLUE_GREEN)
            },
            with(CANARY),
            ReleaseStrategy {
                steps: vec!["5% 30s".to_owned(), "50% 1m".to_owned()],
                judge: some("requests=20 errors=1% p95=150%"),
                ..with(CANARY)
            },
            with(RECREATE),
        ];
        for wire in told {
            assert_eq!(told_strategy(&strategy(&wire, false).unwrap()), wire);
        }
    }

    #[test]
    fn what_does_not_fit_names_the_field() {
        let plain = ReleaseStrategy::default();
        assert_eq!(strategy(&plain, true).unwrap().takeover, Takeover::Recreate);
        let error = |wire: &ReleaseStrategy| strategy(wire, false).unwrap_err().message;
        let near = error(&with("canari"));
        assert!(near.contains("did you mean 'canary'?"), "{near}");
        let other = ReleaseStrategy {
            warm: Some("1s".to_owned()),
            ..with(CANARY)
        };
        assert!(error(&other).starts_with("strategy.warm: "));
        let steps = ReleaseStrategy {
            steps: vec!["10".to_owned()],
            ..with(CANARY)
        };
        assert!(error(&steps).starts_with("strategy.steps: "));
        assert!(order("halt").is_err());
        assert_eq!(order("abort").unwrap(), Order::Abort);
    }

    #[test]
    fn resources_survive_being_told() {
        let wire = api::Resources {
            memory: Some("512Mi".to_owned()),
            cpu: Some("500m".to_owned()),
            pids: Some(100),
            files: None,
            disk: Some("1Gi".to_owned()),
        };
        assert_eq!(told_resources(&resources(&wire).unwrap()), wire);
        let isolation_wire = api::Isolation {
            profile: Some("strict".to_owned()),
            network: Some("none".to_owned()),
        };
        assert_eq!(
            told_isolation(&isolation(&isolation_wire).unwrap()),
            isolation_wire
        );
    }
}
