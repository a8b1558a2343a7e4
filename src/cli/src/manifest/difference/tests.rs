//! What applying a file comes to.

use nebula_wire::api::DeploymentPhase;

use super::*;
use crate::manifest::tests::{FULL, read_in};

fn deployed(manifest: &Manifest) -> DeploymentStatus {
    let read = convert::spec(&manifest.spec, Some("a.test"), Passwords::Unseen).unwrap();
    DeploymentStatus {
        name: manifest.name.to_string(),
        kind: manifest.spec.kind.clone(),
        generation: 7,
        release: 2,
        phase: DeploymentPhase::Ready,
        rollout: None,
        desired: manifest.instances.unwrap_or(1),
        ready: 1,
        urls: Vec::new(),
        artifact: "a1".repeat(32),
        spec: Some(convert::told_spec(&read)),
        releases: Vec::new(),
        instances: Vec::new(),
        problems: Vec::new(),
        last_run: None,
        next_run_at: None,
        as_of: None,
        silent: vec![],
    }
}

fn plan(text: &str, artifact: &str, current: Option<&DeploymentStatus>) -> Plan {
    difference(&read_in(text, None).unwrap(), artifact, current).unwrap()
}

#[test]
fn what_is_as_the_file_says_is_left_alone() {
    let manifest = read_in(FULL, None).unwrap();
    let current = deployed(&manifest);
    let same = plan(FULL, &current.artifact, Some(&current));
    assert_eq!(
        (same.action, same.changes.len()),
        (Action::None, 0),
        "{same:?}"
    );
    // Without a domain and a number in the file, those that are there stay.
    let silent = FULL
        .replace("tld = \"a.test\"\n", "")
        .replace("instances = 3\n", "");
    let same = plan(&silent, &current.artifact, Some(&current));
    assert_eq!(same.action, Action::None, "{same:?}");
    let spelled = FULL.replace("1m30s", "90s").replace("512Mi", "536870912");
    assert!(plan(&spelled, &current.artifact, Some(&current)).changes_nothing());
}

#[test]
fn each_change_has_its_line_and_variables_only_a_name() {
    let current = deployed(&read_in(FULL, None).unwrap());
    let scaled = plan(
        &FULL.replace("= 3", "= 4"),
        &current.artifact,
        Some(&current),
    );
    assert_eq!((scaled.action, scaled.scale), (Action::Scale, Some(4)));
    assert_eq!(scaled.text(), "api would be scaled:\n  ~ instances: 3 -> 4");

    let text = FULL
        .replace("./run", "./run --fast")
        .replace("LEVEL = \"info\"", "NEWER = \"hush\"")
        .replace("x${TOKEN}", "y${TOKEN}")
        .replace("memory = \"512Mi\"", "cpu = \"2\"")
        .replace("[\"10% 2m\"]", "[\"20% 2m\"]")
        .replace("1m30s", "5s");
    let changed = plan(&text, &"b2".repeat(32), Some(&current));
    assert_eq!((changed.action, changed.scale), (Action::Update, None));
    let shown = changed.text();
    for line in [
        "api would get a new release:",
        "  ~ command: \"./run\" -> \"./run --fast\"",
        "  ~ stop_grace: \"90s\" -> \"5s\"",
        "  - resources.memory: \"512Mi\"",
        "  + resources.cpu: \"2\"",
        "  ~ strategy.steps: [\"10% 2m\"] -> [\"20% 2m\"]",
        "  ~ env.TOKEN (values are not shown)",
        "  ~ env.LEVEL (values are not shown)",
        "  + env.NEWER",
        "  ~ files: \"a1a1a1a1a1a1\" -> \"b2b2b2b2b2b2\"",
    ] {
        assert!(shown.lines().any(|other| other == line), "{line}\n{shown}");
    }
    let json = serde_json::to_string(&changed).unwrap();
    assert!(!shown.contains("hush") && !json.contains("hush"), "{json}");

    let new = plan(FULL, &current.artifact, None);
    assert_eq!(new.action, Action::Create);
    assert!(new.text().contains("  + instances: 3"), "{}", new.text());
    assert!(!new.text().contains("hush"));
}

#[test]
fn a_change_of_type_and_passwords_are_seen() {
    let site = read_in("name = 'api'", None).unwrap();
    let mut current = deployed(&site);
    current.desired = 3;
    let same = plan("name = 'api'", &current.artifact, Some(&current));
    assert!(same.changes_nothing(), "nodes are not counted: {same:?}");
    let program = plan(
        "name = 'api'\ncommand = 'x'\ninstances = 3",
        &current.artifact,
        Some(&current),
    );
    assert_eq!((program.action, program.scale), (Action::Update, Some(3)));

    let hash = "$2y$10$......................2222222222222222222222222222222";
    let locked = format!("name = 'api'\n[http.basic_auth]\nusers = ['ann:{hash}']");
    let current = deployed(&read_in(&locked, None).unwrap());
    let kept = "name = 'api'\n[http.basic_auth]\nusers = ['ann']";
    assert!(plan(kept, &current.artifact, Some(&current)).changes_nothing());
    let again = plan(&locked, &current.artifact, Some(&current));
    assert_eq!(again.changes[0].change, How::Changed);
    assert!(!serde_json::to_string(&again).unwrap().contains("$2y"));
}
