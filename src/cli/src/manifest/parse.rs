//! From text to a checked deployment, and from what is wrong with it to the place in the text.

use std::collections::BTreeMap;
use std::ops::Range;

use nebula_domain::DeploymentName;
use nebula_wire::api::{DeploymentSpec, Http};
use nebula_wire::convert::{self, Passwords};
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, Deserializer};

use super::file::{File, ProbeTable, SecretEntry, Time};
use super::overlay::{self, Laid};
use crate::spec::{Kind, check_instances, unread};
use crate::toml_text::{place, with_nearest};

/// Stands in for the cluster's default domain, which only the cluster knows.
const SOME_DOMAIN: &str = "default.invalid";

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    pub span: Option<Range<usize>>,
    pub reason: String,
}

impl Wrong {
    pub fn new(span: Range<usize>, reason: impl Into<String>) -> Wrong {
        Wrong {
            span: Some(span),
            reason: reason.into(),
        }
    }

    pub fn nowhere(reason: impl Into<String>) -> Wrong {
        Wrong {
            span: None,
            reason: reason.into(),
        }
    }

    /// At this field, or at the nearest table around it that is there.
    pub fn at(table: &DeTable<'_>, field: &str, reason: impl Into<String>) -> Wrong {
        Wrong {
            span: place(table, field).map(|place| place.span),
            reason: reason.into(),
        }
    }

    fn toml(error: &toml::de::Error) -> Wrong {
        Wrong {
            span: error.span(),
            reason: with_nearest(error.message()),
        }
    }
}

/// What the text alone says.
pub struct Parsed<'i> {
    pub name: DeploymentName,
    pub environment: Option<String>,
    /// All of it but the environment variables.
    pub spec: DeploymentSpec,
    pub instances: Option<u32>,
    pub path: Option<String>,
    pub image: Option<String>,
    pub env_file: Option<String>,
    /// As they are written.
    pub env: BTreeMap<String, String>,
    /// The text's own tree with the environment laid over it, to find places in.
    pub table: DeTable<'i>,
}

/// Reads and checks a file in one of its environments.
pub fn parse<'i>(text: &'i str, environment: Option<&str>) -> Result<Parsed<'i>, Wrong> {
    let document = DeTable::parse(text).map_err(|e| Wrong::toml(&e))?;
    let whole = document.span();
    let shaped = |table: &DeTable<'i>| shape(table.clone(), whole.clone()).map(|_| ());
    let Laid { table, named } = overlay::lay(document.into_inner(), environment, shaped)?;
    let file = shape(table.clone(), whole.clone())?;
    let name = name(&file, environment.filter(|_| !named), &table)?;
    if file.image.is_some() && file.path.is_some() {
        let reason = "image: an image has its own files, so that there is no path beside it";
        return Err(Wrong::at(&table, "image", reason));
    }
    let is_program = file.command.is_some() || file.image.is_some();
    let kind = file.kind.unwrap_or(match is_program {
        true if file.cron.schedule.is_some() => Kind::Cron,
        true => Kind::Service,
        false => Kind::Static,
    });
    if kind == Kind::Static {
        for (given, field) in [
            (file.instances.is_some(), "instances"),
            (file.port.is_some(), "port"),
            (file.image.is_some(), "image"),
            (file.env_file.is_some(), "env_file"),
            (file.stop_grace.is_some(), "stop_grace"),
            (file.drain.is_some(), "drain"),
            (file.socket_grace.is_some(), "socket_grace"),
        ] {
            if given {
                let reason = format!("{field} is for services, and this is a static site");
                return Err(Wrong::at(&table, field, reason));
            }
        }
    }
    if file.instances.is_some() && matches!(kind, Kind::Job | Kind::Cron) {
        let reason = "what runs to its end has no instances to count";
        return Err(Wrong::at(&table, "instances", reason));
    }
    if let Some(instances) = file.instances {
        check_instances(instances).map_err(|e| Wrong::at(&table, "instances", e.error.message))?;
    }
    let env = file.env.into_iter().map(|(key, value)| (key, value.0));
    let env: BTreeMap<String, String> = env.collect();
    let spec = DeploymentSpec {
        kind: kind.as_str().to_owned(),
        command: file.command,
        image: file.image.as_ref().map(|_| unread()),
        port: file.port,
        tld: file.tld,
        env: BTreeMap::new(),
        probe: file.probe.as_ref().map(|table| table.to_wire_of(kind)),
        startup: file.startup.as_ref().map(ProbeTable::to_wire),
        liveness: file.liveness.as_ref().map(ProbeTable::to_wire),
        stop_grace_ms: file.stop_grace.map(Time::millis),
        drain_ms: file.drain.map(Time::millis),
        socket_grace_ms: file.socket_grace.map(Time::millis),
        spa: file.spa.unwrap_or(false),
        http: http(file.names, file.http, &table)?,
        strategy: file.strategy,
        resources: file.resources,
        isolation: file.isolation,
        volumes: file.volumes,
        depends_on: file.depends_on,
        secrets: file.secrets.iter().map(SecretEntry::to_wire).collect(),
        job: file.job,
        cron: file.cron,
        hooks: file.hooks,
        placement: file.placement,
    };
    let as_written = DeploymentSpec {
        env: env.clone(),
        ..spec.clone()
    };
    check(&as_written, &table)?;
    Ok(Parsed {
        name,
        environment: environment.map(str::to_owned),
        spec,
        instances: file.instances,
        path: file.path,
        image: file.image,
        env_file: file.env_file,
        env,
        table,
    })
}

/// The table's fields, whatever they say.
fn shape(table: DeTable<'_>, whole: Range<usize>) -> Result<File, Wrong> {
    File::deserialize(Deserializer::from(Spanned::new(whole, table))).map_err(|e| Wrong::toml(&e))
}

/// The deployment's name; that of an environment's begins with the environment's.
fn name(file: &File, prefix: Option<&str>, table: &DeTable<'_>) -> Result<DeploymentName, Wrong> {
    let Some(name) = &file.name else {
        return Err(Wrong::nowhere(
            "the deployment has no name: add name = \"my-app\"",
        ));
    };
    let name = match prefix {
        Some(prefix) => format!("{prefix}-{name}"),
        None => name.clone(),
    };
    name.parse()
        .map_err(|e: nebula_domain::names::NameError| Wrong::at(table, "name", e.to_string()))
}

/// The policy with the names that stand at the top of the file.
fn http(names: Option<Vec<String>>, http: Http, table: &DeTable<'_>) -> Result<Http, Wrong> {
    match names {
        None => Ok(http),
        Some(_) if !http.names.is_empty() => Err(Wrong::at(
            table,
            "http.names",
            "the names stand at the top of the file already: leave one of the two out",
        )),
        Some(names) => Ok(Http { names, ..http }),
    }
}

/// Whether the cluster would take it; if not, where it says what the cluster would refuse.
pub fn check(spec: &DeploymentSpec, table: &DeTable<'_>) -> Result<(), Wrong> {
    convert::policy(&spec.http, Passwords::Unseen).map_err(|error| {
        let field = format!("http.{}", error.field);
        let is_name = error.field.starts_with("names") && place(table, "names").is_some();
        let at = if is_name { &error.field } else { &field };
        Wrong::at(table, at, format!("{at}: {}", error.reason))
    })?;
    let Err(message) = refusal(spec) else {
        return Ok(());
    };
    let part = blame(spec);
    Err(Wrong {
        span: place_of(&message, part.as_deref(), table),
        reason: message,
    })
}

/// Errors begin with the field that they are about, or name it in a sentence about the part.
fn place_of(message: &str, part: Option<&str>, table: &DeTable<'_>) -> Option<Range<usize>> {
    let exact = |field: &str| place(table, field).filter(|place| place.exact);
    let first = message.split([' ', ':']).next().unwrap_or_default();
    let words = message.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let mut within = words.filter_map(|word| {
        let word = word.strip_suffix("_ms").unwrap_or(word);
        exact(&format!("{}.{word}", part?))
    });
    let found = exact(first).or_else(|| within.next());
    let found = found.or_else(|| place(table, part?));
    found
        .or_else(|| place(table, "type"))
        .map(|place| place.span)
}

fn refusal(spec: &DeploymentSpec) -> Result<(), String> {
    match convert::spec(spec, Some(SOME_DOMAIN), Passwords::Unseen) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.message),
    }
}

type Part = (&'static str, fn(&DeploymentSpec, &mut DeploymentSpec));

/// The parts of a spec as the file calls them, and how one is taken over.
const PARTS: &[Part] = &[
    ("tld", |from, to| to.tld.clone_from(&from.tld)),
    ("command", |from, to| to.command.clone_from(&from.command)),
    ("image", |from, to| to.image.clone_from(&from.image)),
    ("port", |from, to| to.port = from.port),
    ("probe", |from, to| to.probe.clone_from(&from.probe)),
    ("startup", |from, to| to.startup.clone_from(&from.startup)),
    ("liveness", |from, to| {
        to.liveness.clone_from(&from.liveness)
    }),
    ("stop_grace", |from, to| {
        to.stop_grace_ms = from.stop_grace_ms
    }),
    ("drain", |from, to| to.drain_ms = from.drain_ms),
    ("socket_grace", |from, to| {
        to.socket_grace_ms = from.socket_grace_ms
    }),
    ("spa", |from, to| to.spa = from.spa),
    ("strategy", |from, to| to.strategy = from.strategy.clone()),
    ("resources", |from, to| {
        to.resources = from.resources.clone()
    }),
    ("isolation", |from, to| {
        to.isolation = from.isolation.clone()
    }),
    ("volumes", |from, to| to.volumes.clone_from(&from.volumes)),
    ("secrets", |from, to| to.secrets.clone_from(&from.secrets)),
    ("depends_on", |from, to| {
        to.depends_on.clone_from(&from.depends_on)
    }),
    ("job", |from, to| to.job = from.job.clone()),
    ("cron", |from, to| to.cron = from.cron.clone()),
    ("hooks", |from, to| to.hooks = from.hooks.clone()),
    ("placement", |from, to| {
        to.placement = from.placement.clone()
    }),
];

/// The first part that is refused even when all others are as by default.
fn blame(spec: &DeploymentSpec) -> Option<String> {
    let is_program = spec.kind != Kind::Static.as_str();
    let mut cron = nebula_wire::api::Cron::default();
    if spec.kind == Kind::Cron.as_str() && spec.cron.schedule.is_some() {
        cron.schedule = Some("@daily".to_owned());
    }
    let plain = DeploymentSpec {
        kind: spec.kind.clone(),
        cron,
        command: is_program.then(|| "true".to_owned()),
        ..DeploymentSpec::default()
    };
    for (field, take) in PARTS {
        let mut one = plain.clone();
        take(spec, &mut one);
        if refusal(&one).is_err() {
            return Some((*field).to_owned());
        }
    }
    for (key, value) in &spec.env {
        let env = [(key.clone(), value.clone())].into();
        let one = DeploymentSpec {
            env,
            ..plain.clone()
        };
        if refusal(&one).is_err() {
            return Some(format!("env.{key}"));
        }
    }
    (!spec.env.is_empty()).then(|| "env".to_owned())
}
