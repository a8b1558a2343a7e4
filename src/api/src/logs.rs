//! `/v1/deployments/{name}/logs`: output of all instances on all nodes, one JSON object per line.

use axum::body::Body;
use axum::extract::{Path, Query, State as Ex};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use nebula_domain::excerpt::excerpt;
use nebula_domain::loglevel::Level;
use nebula_domain::text::parse_duration;
use nebula_domain::time::Millis;
use nebula_domain::{DeploymentName, InstanceId, Rejection, ReleaseNumber, State};
use nebula_wire::api::{ApiError, ErrorCode, LogLine};
use nebula_wire::peer::log_search::Filter;
use nebula_wire::peer::logs::Source;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::app::App;
use crate::error::Answer;

#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    /// Go on with new lines until the client goes away.
    #[serde(default)]
    pub follow: bool,
    /// So many of the latest lines; 200, or with `since` as many as there may be (10,000).
    pub tail: Option<usize>,
    /// Only this instance, also one that is gone.
    pub instance: Option<String>,
    /// Only lines of this level or a more serious one: trace, debug, info, warn, error, fatal. Lines that tell no level are left out.
    pub level: Option<String>,
    /// Only lines from this time on: RFC 3339, or how long ago, such as `1h`.
    pub since: Option<String>,
    /// Only lines before this time, written alike.
    pub until: Option<String>,
    /// Only lines in which this regular expression is found.
    pub grep: Option<String>,
    /// Only instances of this release.
    pub release: Option<u32>,
    /// Only instances that run or ran on the node of this name.
    pub node: Option<String>,
    /// Only `stdout`, `stderr` or `nebula`.
    pub stream: Option<String>,
    /// Also lines of earlier deployments that had this name.
    #[serde(default)]
    pub past: bool,
}

/// Output of a deployment's instances.
#[utoipa::path(get, path = "/v1/deployments/{name}/logs", params(("name" = String, Path), LogQuery),
    responses((status = 200, body = LogLine, content_type = "application/x-ndjson"), (status = 400, body = ApiError), (status = 404, body = ApiError)))]
pub async fn stream(
    Ex(app): Ex<App>,
    Path(text): Path<String>,
    Query(query): Query<LogQuery>,
) -> Answer<Response> {
    let name: DeploymentName = text.parse()?;
    let wanted = wanted(name, query, app.clock.now())?;
    check(&app.registry.state(), &wanted)?;
    let lines = app
        .logs
        .stream(wanted)
        .map_err(|error| {
            bad(
                error.to_string(),
                "write a regular expression, such as 'time(d )?out'",
            )
        })?
        .map(|line| Ok::<_, std::convert::Infallible>(json_line(&line)));
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    );
    Ok(response)
}

pub(crate) fn bad(message: impl Into<String>, hint: &str) -> ApiError {
    ApiError::bad_request(message, hint)
}

/// The query in the terms of the logs.
fn wanted(
    name: DeploymentName,
    query: LogQuery,
    now: Millis,
) -> Result<nebula_logs::Query, ApiError> {
    let tail = match (query.tail, &query.since) {
        (Some(tail), _) => tail,
        (None, None) => nebula_logs::TAIL_DEFAULT,
        (None, Some(_)) => nebula_logs::MAX_TAIL,
    };
    if tail > nebula_logs::MAX_TAIL {
        let message = format!(
            "tail is {tail}, over the limit of {} lines (max_tail)",
            nebula_logs::MAX_TAIL
        );
        return Err(bad(message, "ask for fewer lines"));
    }
    if query.follow && query.until.is_some() {
        return Err(bad(
            "'follow' goes on, and 'until' ends",
            "give one of them",
        ));
    }
    let instance = query.instance.as_deref().map(str::parse::<InstanceId>);
    let instance = instance
        .transpose()
        .map_err(|e| bad(e.to_string(), "see 'nebula deploy status'"))?;
    let level = query.level.as_deref().map(str::parse::<Level>);
    let level = level
        .transpose()
        .map_err(|e| bad(e.to_string(), "'warn' means warn and more serious ones"))?;
    let time = |text: Option<&str>| text.map(|text| time_of(text, now)).transpose();
    let (since, until) = (time(query.since.as_deref())?, time(query.until.as_deref())?);
    if let (Some(since), Some(until)) = (&since, &until)
        && since >= until
    {
        return Err(bad("'since' is not before 'until'", "turn them around"));
    }
    Ok(nebula_logs::Query {
        follow: query.follow,
        tail,
        node: query.node,
        filter: Filter {
            instance,
            release: query.release.map(ReleaseNumber),
            source: query.stream.as_deref().map(source).transpose()?,
            level,
            since,
            until,
            grep: query.grep,
            past: query.past,
        },
        ..nebula_logs::Query::new(name)
    })
}

fn source(text: &str) -> Result<Source, ApiError> {
    let all = [Source::Stdout, Source::Stderr, Source::Nebula];
    let mut named = all.into_iter().filter(|source| source.as_str() == text);
    named.next().ok_or_else(|| {
        let message = format!("'{}' is not a stream", excerpt(text));
        bad(message, "write stdout, stderr or nebula")
    })
}

/// As lines show it: a time, or one so long ago.
fn time_of(text: &str, now: Millis) -> Result<String, ApiError> {
    millis_of(text, now).map(nebula_logs::time_text)
}

pub(crate) fn millis_of(text: &str, now: Millis) -> Result<Millis, ApiError> {
    if let Some(ago) = parse_duration(text) {
        let ago = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
        return Ok(Millis(now.0.saturating_sub(ago)));
    }
    let time = OffsetDateTime::parse(text, &Rfc3339).ok();
    let millis = time.and_then(|time| u64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok());
    millis.map(Millis).ok_or_else(|| {
        let message = format!("'{}' is not a time", excerpt(text));
        bad(
            message,
            "write how long ago, such as 15m or 2h, or a time, such as 2026-01-31T12:00:00Z",
        )
    })
}

/// What is asked for must be known, as far as the registry can tell.
fn check(state: &State, wanted: &nebula_logs::Query) -> Result<(), ApiError> {
    let name = &wanted.deployment;
    let unknown = |message: String, hint: &str| ApiError {
        code: ErrorCode::NotFound,
        ..bad(message, hint)
    };
    if let Some(id) = wanted.filter.instance {
        if id.0 >= state.next_instance_id {
            let message = format!("there has been no instance {id}");
            return Err(unknown(
                message,
                "see 'nebula deploy status' for a deployment's instances",
            ));
        }
        if let Some(instance) = state.instances.get(&id)
            && instance.deployment != *name
        {
            let message = format!("{id} is an instance of '{}'", instance.deployment);
            return Err(unknown(message, "name that deployment"));
        }
    }
    // Output outlives its deployment; it is shown when it is asked for.
    let asked = wanted.filter.past || wanted.filter.instance.is_some();
    if !asked && !state.deployments.contains_key(name) {
        return Err(ApiError {
            hint: "the output of one that was removed is shown with --past".to_owned(),
            ..ApiError::from(&Rejection::DeploymentUnknown(name.clone()))
        });
    }
    Ok(())
}

fn json_line(line: &LogLine) -> Bytes {
    let mut json = serde_json::to_vec(line).unwrap_or_default();
    json.push(b'\n');
    json.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_769_860_800_000);

    fn of(query: &str) -> Result<nebula_logs::Query, ApiError> {
        let uri = format!("/x?{query}").parse().unwrap();
        let Query(query) = Query::<LogQuery>::try_from_uri(&uri).unwrap();
        wanted("api".parse().unwrap(), query, NOW)
    }

    #[test]
    fn times_are_absolute_or_so_long_ago() {
        let query = of("since=1h&until=2026-01-31T12:59:00%2B01:00").unwrap();
        assert_eq!(
            query.filter.since.as_deref(),
            Some("2026-01-31T11:00:00.000Z")
        );
        assert_eq!(
            query.filter.until.as_deref(),
            Some("2026-01-31T11:59:00.000Z")
        );
        assert_eq!(query.tail, nebula_logs::MAX_TAIL, "all since then");
        assert_eq!(of("").unwrap().tail, nebula_logs::TAIL_DEFAULT);
        assert_eq!(of("since=1h&tail=3").unwrap().tail, 3);
    }

    #[test]
    fn what_is_no_filter_is_refused_with_a_hint() {
        for bad in [
            "since=yesterday",
            "until=1",
            "since=1h&until=2h",
            "follow=true&until=1h",
            "level=loud",
            "stream=stdin",
            "instance=7",
            "tail=10001",
        ] {
            let error = of(bad).unwrap_err();
            assert_eq!(error.code, ErrorCode::BadRequest, "{bad}");
            assert!(
                !error.message.contains('\n') && !error.hint.is_empty(),
                "{bad}"
            );
        }
    }

    #[test]
    fn output_of_what_is_gone_is_shown_when_it_is_asked_for() {
        let state = State {
            next_instance_id: 9,
            ..State::default()
        };
        let check = |query| check(&state, &of(query).unwrap());
        assert!(check("").unwrap_err().hint.contains("--past"));
        assert!(check("past=true").is_ok() && check("instance=i-8").is_ok());
        let error = check("instance=i-9").unwrap_err();
        assert_eq!(error.code, ErrorCode::NotFound);
    }
}
