//! HTTP policies as they arrive.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use nebula_domain::ReleaseNumber;
use nebula_domain::excerpt::excerpt;
use nebula_domain::http::{
    Action, AddressRules, BasicAuth, ByteSize, Cache, Cors, HttpError, HttpPolicy, Maintenance,
    PathPrefix, RateRule, RedirectCode, RequestLimits, Rule, SecurityHeaders, User, UserName,
    Weights,
};
use nebula_domain::text::parse_duration;
use nebula_domain::traffic::{TrafficError, parse_switch};

use crate::api::{
    Http, HttpBasicAuth, HttpCache, HttpCors, HttpLimits, HttpMaintenance, HttpRateLimit, HttpRule,
    HttpSecurity,
};

pub(super) const OFF: &str = "off";
const ON: &str = "on";
pub(super) const UNLIMITED: &str = "unlimited";

/// Where the password of a user comes from whose line has none.
#[derive(Debug, Clone, Copy)]
pub enum Passwords<'a> {
    /// What the registry holds.
    Stored(&'a [User]),
    /// The registry's, which this machine cannot see: each is taken to be there. For checks alone.
    Unseen,
}

/// A legal hash, of no password that anybody knows, to check a policy with.
const UNSEEN_HASH: &str = "$2y$10$......................2222222222222222222222222222222";

/// A policy as it arrives.
pub fn policy(wire: &Http, passwords: Passwords<'_>) -> Result<HttpPolicy, HttpError> {
    let default = HttpPolicy::default();
    let policy = HttpPolicy {
        names: all("names", &wire.names)?,
        rules: each("rules", &wire.rules, rule)?,
        weights: weights(wire)?,
        https: value("https", wire.https.as_ref(), default.https)?,
        limits: limits(&wire.limits)?,
        deadlines: value("deadlines", wire.deadlines.as_ref(), default.deadlines)?,
        capacity: value("capacity", wire.capacity.as_ref(), default.capacity)?,
        rate_limits: each("rate_limits", &wire.rate_limits, rate_limit)?,
        retry: value("retry", wire.retry.as_ref(), default.retry)?,
        hedge: match &wire.hedge {
            None => default.hedge,
            Some(text) => parse_switch(text).map_err(at("hedge"))?,
        },
        upstream: value("upstream", wire.upstream.as_ref(), default.upstream)?,
        balance: value("balance", wire.balance.as_ref(), default.balance)?,
        sticky: switch("sticky", wire.sticky.as_ref(), default.sticky)?,
        ejection: switch("ejection", wire.ejection.as_ref(), default.ejection)?,
        breaker: switch("breaker", wire.breaker.as_ref(), default.breaker)?,
        slow_start: switch("slow_start", wire.slow_start.as_ref(), default.slow_start)?,
        security: security(&wire.security)?,
        cors: cors(&wire.cors)?,
        maintenance: maintenance(&wire.maintenance)?,
        basic_auth: basic_auth(&wire.basic_auth, passwords)?,
        addresses: AddressRules {
            allow: all("addresses.allow", &wire.addresses.allow)?,
            deny: all("addresses.deny", &wire.addresses.deny)?,
        },
        cache: cache(&wire.cache)?,
        access_log: value("access_log", wire.access_log.as_ref(), default.access_log)?,
        response_headers: all("response_headers", &wire.response_headers)?,
    };
    policy.check()?;
    Ok(policy)
}

fn at<E: Display>(field: impl Into<String>) -> impl FnOnce(E) -> HttpError {
    let field = field.into();
    move |error| HttpError::new(field, error)
}

fn parse<T: FromStr<Err: Display>>(field: &str, text: &str) -> Result<T, HttpError> {
    text.parse().map_err(at(field))
}

fn value<T: FromStr<Err: Display>>(
    field: &str,
    text: Option<&String>,
    default: T,
) -> Result<T, HttpError> {
    text.map_or(Ok(default), |text| parse(field, text))
}

/// Every entry of a list.
fn all<T: FromStr<Err: Display>>(field: &str, texts: &[String]) -> Result<Vec<T>, HttpError> {
    each(field, texts, |field, text| parse(field, text))
}

fn each<W, T>(
    field: &str,
    wire: &[W],
    read: impl Fn(&str, &W) -> Result<T, HttpError>,
) -> Result<Vec<T>, HttpError> {
    wire.iter()
        .enumerate()
        .map(|(i, wire)| read(&format!("{field}[{i}]"), wire))
        .collect()
}

/// A setting that may be off; `on` is its default.
fn switch<T>(field: &str, text: Option<&String>, default: Option<T>) -> Result<Option<T>, HttpError>
where
    T: FromStr<Err = TrafficError> + Default,
{
    match text.map(|text| text.trim()) {
        None => Ok(default),
        Some(ON) => Ok(Some(T::default())),
        Some(text) => parse_switch(text).map_err(at(field)),
    }
}

fn time(field: &str, text: Option<&String>, default: Duration) -> Result<Duration, HttpError> {
    let Some(text) = text else {
        return Ok(default);
    };
    parse_duration(text).ok_or_else(|| {
        HttpError::new(
            field,
            format!(
                "'{}' is not a time: write it as in 500ms, 30s or 5m",
                excerpt(text)
            ),
        )
    })
}

fn rule(field: &str, wire: &HttpRule) -> Result<Rule, HttpError> {
    let of = |part: &str| format!("{field}.{part}");
    let optional = |part: &str, there: bool| there.then(|| of(part));
    let actions = [
        optional("to", wire.to.is_some()),
        optional("redirect", wire.redirect.is_some()),
        optional("status", wire.status.is_some()),
    ];
    let named: Vec<String> = actions.into_iter().flatten().collect();
    if let [first, second, ..] = &named[..] {
        let first = first.rsplit('.').next().unwrap_or_default();
        return Err(HttpError::new(
            second,
            format!(
                "the rule has '{first}' already: a rule has one of 'to', 'redirect' and 'status'"
            ),
        ));
    }
    let without = |part: &str, there: bool, needs: &str| match there {
        true => Err(HttpError::new(
            of(part),
            format!("it says nothing without '{needs}'"),
        )),
        false => Ok(()),
    };
    let action = if let Some(to) = &wire.redirect {
        without("strip_prefix", wire.strip_prefix, "to")?;
        without("body", wire.body.is_some(), "status")?;
        let code = wire
            .code
            .map_or(Ok(RedirectCode::DEFAULT), RedirectCode::try_from);
        Action::Redirect {
            to: parse(&of("redirect"), to)?,
            code: code.map_err(at(of("code")))?,
        }
    } else if let Some(status) = wire.status {
        without("strip_prefix", wire.strip_prefix, "to")?;
        without("code", wire.code.is_some(), "redirect")?;
        Action::Status {
            code: status.try_into().map_err(at(of("status")))?,
            body: wire.body.clone().unwrap_or_default(),
        }
    } else {
        without("code", wire.code.is_some(), "redirect")?;
        without("body", wire.body.is_some(), "status")?;
        let to = wire
            .to
            .as_ref()
            .map(|to| parse(&of("to"), to))
            .transpose()?;
        Action::Forward {
            to,
            strip_prefix: wire.strip_prefix,
        }
    };
    let host = wire.host.as_ref().map(|host| parse(&of("host"), host));
    Ok(Rule {
        host: host.transpose()?,
        path: value(&of("path"), wire.path.as_ref(), PathPrefix::root())?,
        methods: all(&of("methods"), &wire.methods)?,
        headers: all(&of("headers"), &wire.headers)?,
        action,
    })
}

fn weights(wire: &Http) -> Result<Weights, HttpError> {
    let read = |(release, weight): (&String, &u32)| {
        let release: ReleaseNumber = parse("weights", &excerpt(release))?;
        Ok((release, *weight))
    };
    wire.weights
        .iter()
        .map(read)
        .collect::<Result<_, _>>()
        .map(Weights)
}

fn limits(wire: &HttpLimits) -> Result<RequestLimits, HttpError> {
    let default = RequestLimits::default();
    Ok(RequestLimits {
        body: match wire.body.as_deref() {
            None => default.body,
            Some(UNLIMITED) => None,
            Some(text) => Some(parse::<ByteSize>("limits.body", text)?),
        },
        head: value("limits.head", wire.head.as_ref(), default.head)?,
        uri: value("limits.uri", wire.uri.as_ref(), default.uri)?,
        idle: time("limits.idle", wire.idle.as_ref(), default.idle)?,
    })
}

fn rate_limit(field: &str, wire: &HttpRateLimit) -> Result<RateRule, HttpError> {
    let of = |part: &str| format!("{field}.{part}");
    let rule = RateRule::by_address(parse(&of("limit"), &wire.limit)?);
    Ok(RateRule {
        key: value(&of("key"), wire.key.as_ref(), rule.key)?,
        exempt: all(&of("exempt"), &wire.exempt)?,
        cluster: wire.cluster,
        ..rule
    })
}

fn security(wire: &HttpSecurity) -> Result<SecurityHeaders, HttpError> {
    let default = match wire.defaults.as_deref() {
        None | Some(ON) => SecurityHeaders::default(),
        Some(OFF) => SecurityHeaders::OFF,
        Some(other) => {
            let other = excerpt(other);
            return Err(HttpError::new(
                "security.defaults",
                format!("'{other}' is not a switch: use 'on' or 'off'"),
            ));
        }
    };
    Ok(SecurityHeaders {
        frame_options: or_off(
            "security.frame_options",
            &wire.frame_options,
            default.frame_options,
        )?,
        content_type_options: or_off(
            "security.content_type_options",
            &wire.content_type_options,
            default.content_type_options,
        )?,
        referrer_policy: or_off(
            "security.referrer_policy",
            &wire.referrer_policy,
            default.referrer_policy,
        )?,
        content_security_policy: or_off(
            "security.content_security_policy",
            &wire.content_security_policy,
            default.content_security_policy,
        )?,
        xss_protection: or_off(
            "security.xss_protection",
            &wire.xss_protection,
            default.xss_protection,
        )?,
        hsts: or_off("security.hsts", &wire.hsts, default.hsts)?,
    })
}

fn or_off<T: FromStr<Err: Display>>(
    field: &str,
    text: &Option<String>,
    default: Option<T>,
) -> Result<Option<T>, HttpError> {
    match text.as_deref() {
        None => Ok(default),
        Some(OFF) => Ok(None),
        Some(text) => parse(field, text).map(Some),
    }
}

fn cors(wire: &HttpCors) -> Result<Cors, HttpError> {
    let default = Cors::default();
    Ok(Cors {
        origins: all("cors.origins", &wire.origins)?,
        methods: all("cors.methods", &wire.methods)?,
        headers: all("cors.headers", &wire.headers)?,
        expose: all("cors.expose", &wire.expose)?,
        credentials: wire.credentials,
        max_age: time("cors.max_age", wire.max_age.as_ref(), default.max_age)?,
    })
}

fn maintenance(wire: &HttpMaintenance) -> Result<Maintenance, HttpError> {
    let default = Maintenance::default();
    let retry_after = wire.retry_after.as_ref();
    Ok(Maintenance {
        on: wire.on,
        page: wire.page.clone().unwrap_or_default(),
        retry_after: time("maintenance.retry_after", retry_after, default.retry_after)?,
        exempt: all("maintenance.exempt", &wire.exempt)?,
    })
}

fn basic_auth(wire: &HttpBasicAuth, passwords: Passwords<'_>) -> Result<BasicAuth, HttpError> {
    let user = |field: &str, line: &String| {
        if line.contains(':') {
            return parse(field, line);
        }
        let name: UserName = parse(field, line)?;
        let stored = match passwords {
            Passwords::Stored(users) => users.iter().find(|user| user.name == name).cloned(),
            Passwords::Unseen => Some(User {
                name: name.clone(),
                hash: parse(field, UNSEEN_HASH)?,
            }),
        };
        stored.ok_or_else(|| {
            HttpError::new(
                field,
                format!("no password is stored for '{name}': give a line of 'htpasswd -nB {name}'"),
            )
        })
    };
    Ok(BasicAuth {
        realm: value(
            "basic_auth.realm",
            wire.realm.as_ref(),
            BasicAuth::default().realm,
        )?,
        users: each("basic_auth.users", &wire.users, user)?,
    })
}

fn cache(wire: &HttpCache) -> Result<Cache, HttpError> {
    let default = Cache::default();
    let stale = wire.stale_while_revalidate.as_ref();
    let in_error = wire.stale_if_error.as_ref();
    Ok(Cache {
        on: wire.on,
        max_response: value(
            "cache.max_response",
            wire.max_response.as_ref(),
            default.max_response,
        )?,
        default_ttl: time(
            "cache.default_ttl",
            wire.default_ttl.as_ref(),
            default.default_ttl,
        )?,
        stale_while_revalidate: time(
            "cache.stale_while_revalidate",
            stale,
            default.stale_while_revalidate,
        )?,
        stale_if_error: time("cache.stale_if_error", in_error, default.stale_if_error)?,
    })
}
