//! What a file may say, and what is wrong with one and where.

use std::collections::BTreeMap;

use super::*;

pub(super) const FULL: &str = r#"
name = "api"
command = "./run"
path = "app"
tld = "a.test"
names = ["api.b.test"]
instances = 3
env_file = "app.env"
stop_grace = "1m30s"

[env]
LEVEL = "info"
TOKEN = "x${TOKEN}"

[probe]
path = "/up"
period = "700ms"

[resources]
memory = "512Mi"

[isolation]
network = "none"

[strategy]
type = "canary"
steps = ["10% 2m"]

[http]
https = "both"
[http.limits]
body = "1MiB"

[environments.staging]
instances = 1
[environments.staging.env]
LEVEL = "debug"
[environments.staging.strategy]
type = "recreate"
[environments.staging.http.limits]
head = "8KiB"

[environments.load]
name = "api-load"
names = ["load.b.test"]
"#;

fn variables(name: &str) -> Option<String> {
    (name == "TOKEN").then(|| "hush".to_owned())
}

fn folder(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    std::fs::write(&path, text).unwrap();
    std::fs::write(dir.path().join("app.env"), "LEVEL=file\nFROM=file\n").unwrap();
    (dir, path)
}

pub(super) fn read_in(text: &str, environment: Option<&str>) -> Outcome<Manifest> {
    let (_dir, path) = folder(text);
    read(&path, environment, &variables)
}

#[test]
fn a_file_is_the_flags_in_another_dress() {
    let (dir, path) = folder(FULL);
    let manifest = read(&path, None, &variables).unwrap();
    assert_eq!(
        (manifest.name.as_str(), manifest.instances),
        ("api", Some(3))
    );
    assert_eq!(manifest.folder, dir.path().join("app"));
    assert_eq!(manifest.left_out, [path, dir.path().join("app.env")]);
    let spec = &manifest.spec;
    let env: BTreeMap<&str, &str> = spec
        .env
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    assert_eq!(
        env,
        [("LEVEL", "info"), ("TOKEN", "xhush"), ("FROM", "file")].into()
    );
    assert_eq!(
        (spec.kind.as_str(), spec.stop_grace_ms),
        ("service", Some(90_000))
    );
    let probe = spec.probe.clone().unwrap();
    assert_eq!((probe.kind.as_str(), probe.period_ms), ("http", Some(700)));
    assert_eq!(spec.http.names, ["api.b.test"]);
    assert_eq!(spec.http.limits.body.as_deref(), Some("1MiB"));
    assert_eq!(spec.resources.memory.as_deref(), Some("512Mi"));
    assert!(!format!("{manifest:?}").contains("hush"));
    let site = read_in("name = 'site'", None).unwrap();
    assert_eq!((site.spec.kind.as_str(), site.instances), ("static", None));
}

#[test]
fn an_environment_is_another_deployment_with_what_it_says_in_place_of_the_rest() {
    let staging = read_in(FULL, Some("staging")).unwrap();
    assert_eq!(
        (staging.name.as_str(), staging.instances),
        ("staging-api", Some(1))
    );
    assert_eq!(staging.environment.as_deref(), Some("staging"));
    assert_eq!(staging.spec.env["LEVEL"], "debug");
    assert_eq!(staging.spec.env["TOKEN"], "xhush");
    assert!(
        staging.spec.http.names.is_empty(),
        "a name belongs to one deployment"
    );
    assert_eq!(staging.spec.http.https.as_deref(), Some("both"));
    let limits = &staging.spec.http.limits;
    assert_eq!(
        (limits.body.as_deref(), limits.head.as_deref()),
        (Some("1MiB"), Some("8KiB"))
    );
    assert_eq!(staging.spec.strategy.kind.as_deref(), Some("recreate"));
    assert!(
        staging.spec.strategy.steps.is_empty(),
        "they belong to the other type"
    );
    let load = read_in(FULL, Some("load")).unwrap();
    assert_eq!(load.name.as_str(), "api-load");
    assert_eq!(load.spec.http.names, ["load.b.test"]);
    let error = read_in(FULL, Some("stagin")).unwrap_err();
    assert!(
        error.to_string().contains("no environment 'stagin'"),
        "{error}"
    );
    // A variable may be called what a field is.
    let typed = "name = 'a'\ncommand = 'x'\n[env]\nA = '1'\n[environments.s.env]\ntype = '2'";
    assert_eq!(read_in(typed, Some("s")).unwrap().spec.env.len(), 2);
}

#[test]
fn errors_name_the_place_and_the_nearest_word() {
    let service = "name = 'a'\ncommand = 'x'\n";
    for (text, at, word) in [
        ("nmae = 'a'".to_owned(), (1, 1), "did you mean 'name'?"),
        (
            "name = 'a'\n[resources]\nmemmory = '1Gi'".into(),
            (3, 1),
            "did you mean 'memory'?",
        ),
        (
            "name = 'a'\ntype = 'statik'".into(),
            (2, 8),
            "did you mean 'static'?",
        ),
        (
            "name = 'a'\ntype = 'cron'\ncommand = 'run'".into(),
            (2, 8),
            "needs a schedule",
        ),
        (
            "name = 'a'\ntype = 'cron'\ncommand = 'run'\n[cron]\nschedule = '61 * * * *'".into(),
            (5, 12),
            "cron.schedule: '61 * * * *' cannot be read",
        ),
        (
            "name = 'a'\ncommand = 'run'\n[hooks]\npre_release = ' '".into(),
            (3, 1),
            "a hook's command is empty",
        ),
        (
            "name = 'a'\nimage = 'a.tar'\npath = 'x'".into(),
            (2, 9),
            "no path beside it",
        ),
        (
            "name = 'a'\nimage = 'a.tar'\n[isolation]\nprofile = 'none'".into(),
            (4, 11),
            "an image needs isolation",
        ),
        (
            "name = 'a'\ntype = 'static'\nimage = 'a.tar'".into(),
            (3, 9),
            "image is for services",
        ),
        (format!("{service}port = 80"), (3, 8), "from 1024 to 65535"),
        ("name = 'a'\nport = 8080".into(), (2, 8), "static site"),
        (
            "name = 'a'\ncommand = 'run'\ntype = 'worker'\nport = 8080".into(),
            (4, 8),
            "has no port",
        ),
        (
            format!("{service}[[volumes]]\nname = 'data'\npath = '/etc'"),
            (3, 1),
            "the system's own folders",
        ),
        (
            "name = 'a'\n[environments.s]\nimage = 1".into(),
            (3, 9),
            "a string",
        ),
        (
            "name = 'a'\n[environments.s]\nspaa = true".into(),
            (3, 1),
            "did you mean 'spa'?",
        ),
        (
            "name = 'a'\n[environments.s.environments.t]".into(),
            (2, 17),
            "of its own",
        ),
        ("name = 'a'\nenvironments = 1".into(), (2, 16), "tables"),
        ("path = 'x'".into(), (1, 1), "has no name"),
        ("name = 'Not A Name'".into(), (1, 8), "Not A Name"),
        (
            "name = 'a'\nspa = 'yes'".into(),
            (2, 7),
            "expected a boolean",
        ),
        ("name = 'a'\ninstances = 2".into(), (2, 13), "static site"),
        (
            "name = 'a'\ntld = 'Not A Domain'".into(),
            (2, 7),
            "Not A Domain",
        ),
        (
            "name = 'a'\ntype = 'service'".into(),
            (2, 8),
            "needs a command",
        ),
        (format!("{service}instances = 501"), (3, 13), "500"),
        (
            format!("{service}stop_grace = 'soon'"),
            (3, 14),
            "not a duration",
        ),
        (format!("{service}stop_grace = '2h'"), (3, 14), "stop_grace"),
        (format!("{service}spa = true"), (3, 7), "SPA"),
        (format!("{service}[env]\nPORT = '1'"), (4, 8), "PORT"),
        (format!("{service}[env]\nA = 5"), (4, 5), "quotes"),
        (format!("{service}[env]\n1A = '1'"), (4, 6), "'1A'"),
        (
            format!("{service}[env]\nA = '${{GONE}}'"),
            (4, 5),
            "'GONE' is not set",
        ),
        (
            format!("{service}[probe]\npath = 'up'"),
            (4, 8),
            "begin with '/'",
        ),
        (format!("{service}[probe]\ntype = 'tpc'"), (4, 8), "'tpc'"),
        (
            format!("{service}[resources]\nmemory = '512MB'"),
            (4, 10),
            "512Mi",
        ),
        (
            format!("{service}[resources]\ncpu = '1'\nmemory = '1Mi'"),
            (5, 10),
            "at least 6Mi",
        ),
        (
            format!("{service}[strategy]\ntype = 'canari'"),
            (4, 8),
            "did you mean 'canary'?",
        ),
        (
            format!("{service}[strategy]\nwarm = '1m'"),
            (4, 8),
            "blue-green",
        ),
        (
            format!("{service}[isolation]\nprofile = 'strickt'"),
            (4, 11),
            "did you mean 'strict'?",
        ),
        (
            format!("{service}[http]\nhttps = 'onn'"),
            (4, 9),
            "did you mean 'on'?",
        ),
        (
            format!("{service}names = ['b.test',\n  'B.test']"),
            (4, 3),
            "names[1]",
        ),
        (
            format!("{service}names = []\n[http]\nnames = ['b.test']"),
            (5, 9),
            "top of the file",
        ),
        (
            format!("{service}[http]\n[[http.rules]]\nstaus = 404"),
            (5, 1),
            "did you mean 'status'?",
        ),
        ("name = 'a'\nname = 'b'".into(), (2, 1), "duplicate key"),
    ] {
        let error = read_in(&text, None).expect_err(&text);
        assert_eq!(error.exit as u8, 2, "{error}");
        let message = error.to_string();
        let (line, column) = at;
        let place = format!("nebula.toml, line {line}, column {column}: ");
        assert!(message.contains(&place), "{text}\n{message}");
        assert!(message.contains(word), "{text}\n{message}");
    }
}

#[test]
fn no_error_shows_a_secret() {
    let service = "name = 'a'\ncommand = 'x'\n";
    for text in [
        "[env]\nA = 31337",
        "[env]\nA = 31337.5",
        "[env]\nA = 99999999999999999999",
        "[env]\nA = ['31337']",
        "[env]\nA = 2031-03-07",
        "[env]\nA = '${31337'",
        "[env]\nA = \"31337\\u0000\"",
        "[env]\nA = '31337 ${GONE}'",
        "[http.basic_auth]\nusers = ['ann:31337']",
    ] {
        let error = read_in(&format!("{service}{text}"), None).err();
        let shown = error.map(|e| format!("{} {}", e.error.message, e.error.hint));
        assert!(!shown.unwrap_or_default().contains("31337"), "{text}");
    }
}

#[test]
fn the_documentation_s_example_is_legal() {
    let page = include_str!("../../../../docs/nebula-toml.md");
    let (_, behind) = page.split_once("```toml\n").unwrap();
    let (example, _) = behind.split_once("```").unwrap();
    let example = example.replace("api.env", "app.env");
    let manifest = read_in(&example, None).unwrap();
    assert_eq!(
        (manifest.name.as_str(), manifest.instances),
        ("api", Some(3))
    );
    let staging = read_in(&example, Some("staging")).unwrap();
    assert_eq!(staging.spec.tld.as_deref(), Some("staging.test"));
    assert_eq!(staging.spec.http.rate_limits.len(), 1);
}

#[test]
fn wishes_for_nodes_are_read_and_refused_at_their_place() {
    let text = "name = \"a\"\ncommand = \"run\"\n[placement]\nrequire = [\"disk=ssd\"]\nspread = \"zone\"\n";
    let manifest = read_in(text, None).unwrap();
    assert_eq!(manifest.spec.placement.require, ["disk=ssd"]);
    assert_eq!(manifest.spec.placement.spread.as_deref(), Some("zone"));
    for (from, to, line) in [
        ("disk=ssd", "disk==ssd", "line 4"),
        ("\"zone\"", "\"Zone\"", "line 5"),
        ("require", "requires", "line 4"),
    ] {
        let error = read_in(&text.replace(from, to), None).unwrap_err();
        assert!(error.to_string().contains(line), "{error}");
    }
    let site = text.replace("command = \"run\"\n", "");
    let error = read_in(&site, None).unwrap_err().to_string();
    assert!(error.contains("static site has no"), "{error}");
}
