//! HTTP policies as they are told: only what is not as by default.

use std::fmt::Display;
use std::time::Duration;

use nebula_domain::http::{
    Action, ByteSize, Cache, HttpPolicy, PathPrefix, RateRule, RedirectCode, RequestLimits, Rule,
    SecurityHeaders,
};
use nebula_domain::text::show_duration;
use nebula_domain::traffic::show_switch;

use super::http::{OFF, UNLIMITED};
use crate::api::{
    Http, HttpAddresses, HttpBasicAuth, HttpCache, HttpCors, HttpLimits, HttpMaintenance,
    HttpRateLimit, HttpRule, HttpSecurity,
};

/// A policy as it is told: what is not as by default, and of users only their names. [`policy`](super::http::policy) makes the same of it
/// again where the passwords are stored.
pub fn told_policy(policy: &HttpPolicy) -> Http {
    let default = HttpPolicy::default();
    Http {
        names: texts(&policy.names),
        rules: policy.rules.iter().map(told_rule).collect(),
        weights: policy
            .weights
            .0
            .iter()
            .map(|(r, w)| (r.to_string(), *w))
            .collect(),
        https: told(&policy.https, &default.https),
        limits: told_limits(&policy.limits),
        deadlines: told(&policy.deadlines, &default.deadlines),
        capacity: told(&policy.capacity, &default.capacity),
        rate_limits: policy.rate_limits.iter().map(told_rate_limit).collect(),
        retry: told(&policy.retry, &default.retry),
        hedge: told_switch(&policy.hedge, &default.hedge),
        upstream: told(&policy.upstream, &default.upstream),
        balance: told(&policy.balance, &default.balance),
        sticky: told_switch(&policy.sticky, &default.sticky),
        ejection: told_switch(&policy.ejection, &default.ejection),
        breaker: told_switch(&policy.breaker, &default.breaker),
        slow_start: told_switch(&policy.slow_start, &default.slow_start),
        security: told_security(&policy.security),
        cors: HttpCors {
            origins: texts(&policy.cors.origins),
            methods: texts(&policy.cors.methods),
            headers: texts(&policy.cors.headers),
            expose: texts(&policy.cors.expose),
            credentials: policy.cors.credentials,
            max_age: told_time(policy.cors.max_age, default.cors.max_age),
        },
        maintenance: HttpMaintenance {
            on: policy.maintenance.on,
            page: told(&policy.maintenance.page, &default.maintenance.page),
            retry_after: told_time(
                policy.maintenance.retry_after,
                default.maintenance.retry_after,
            ),
            exempt: texts(&policy.maintenance.exempt),
        },
        basic_auth: HttpBasicAuth {
            realm: told(&policy.basic_auth.realm, &default.basic_auth.realm),
            users: policy
                .basic_auth
                .users
                .iter()
                .map(|u| u.name.to_string())
                .collect(),
        },
        addresses: HttpAddresses {
            allow: texts(&policy.addresses.allow),
            deny: texts(&policy.addresses.deny),
        },
        cache: told_cache(&policy.cache),
        access_log: told(&policy.access_log, &default.access_log),
        response_headers: texts(&policy.response_headers),
    }
}

fn texts<T: Display>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn told<T: Display + PartialEq>(value: &T, default: &T) -> Option<String> {
    (value != default).then(|| value.to_string())
}

fn told_time(time: Duration, default: Duration) -> Option<String> {
    (time != default).then(|| show_duration(time).to_string())
}

fn told_switch<T: Display + PartialEq>(value: &Option<T>, default: &Option<T>) -> Option<String> {
    (value != default).then(|| show_switch(value.as_ref()))
}

fn told_rule(rule: &Rule) -> HttpRule {
    let wire = HttpRule {
        host: rule.host.as_ref().map(ToString::to_string),
        path: told(&rule.path, &PathPrefix::root()),
        methods: texts(&rule.methods),
        headers: texts(&rule.headers),
        ..HttpRule::default()
    };
    match &rule.action {
        Action::Forward { to, strip_prefix } => HttpRule {
            to: to.as_ref().map(ToString::to_string),
            strip_prefix: *strip_prefix,
            ..wire
        },
        Action::Redirect { to, code } => HttpRule {
            redirect: Some(to.to_string()),
            code: (*code != RedirectCode::DEFAULT).then(|| code.get()),
            ..wire
        },
        Action::Status { code, body } => HttpRule {
            status: Some(code.get()),
            body: told(body, &String::new()),
            ..wire
        },
    }
}

fn told_limits(limits: &RequestLimits) -> HttpLimits {
    let default = RequestLimits::default();
    let body =
        |body: Option<ByteSize>| body.map_or_else(|| UNLIMITED.to_owned(), |size| size.to_string());
    HttpLimits {
        body: (limits.body != default.body).then(|| body(limits.body)),
        head: told(&limits.head, &default.head),
        uri: told(&limits.uri, &default.uri),
        idle: told_time(limits.idle, default.idle),
    }
}

fn told_rate_limit(rule: &RateRule) -> HttpRateLimit {
    HttpRateLimit {
        limit: rule.limit.to_string(),
        key: told(&rule.key, &Default::default()),
        exempt: texts(&rule.exempt),
        cluster: rule.cluster,
    }
}

fn told_security(security: &SecurityHeaders) -> HttpSecurity {
    if *security == SecurityHeaders::OFF {
        return HttpSecurity {
            defaults: Some(OFF.to_owned()),
            ..HttpSecurity::default()
        };
    }
    let default = SecurityHeaders::default();
    HttpSecurity {
        defaults: None,
        frame_options: told_switch(&security.frame_options, &default.frame_options),
        content_type_options: told_switch(
            &security.content_type_options,
            &default.content_type_options,
        ),
        referrer_policy: told_switch(&security.referrer_policy, &default.referrer_policy),
        content_security_policy: told_switch(
            &security.content_security_policy,
            &default.content_security_policy,
        ),
        xss_protection: told_switch(&security.xss_protection, &default.xss_protection),
        hsts: told_switch(&security.hsts, &default.hsts),
    }
}

fn told_cache(cache: &Cache) -> HttpCache {
    let default = Cache::default();
    HttpCache {
        on: cache.on,
        max_response: told(&cache.max_response, &default.max_response),
        default_ttl: told_time(cache.default_ttl, default.default_ttl),
        stale_while_revalidate: told_time(
            cache.stale_while_revalidate,
            default.stale_while_revalidate,
        ),
        stale_if_error: told_time(cache.stale_if_error, default.stale_if_error),
    }
}
