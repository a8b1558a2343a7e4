//! Promise: `nebula.toml` is the deployment. A plan changes nothing and says what would change, applying makes it so,
//! and applying the same again changes nothing.

use std::path::Path;

use nebula_cluster_tests::Cluster;

const FILE: &str = r#"
name = "api"
command = "./echo-service"
path = "../echo"
tld = "example.test"
instances = 2
stop_grace = "5s"

[env]
LEVEL = "info"
SECRET = "hush"

[environments.staging]
instances = 1

[environments.staging.env]
LEVEL = "debug"
"#;

fn write(file: &Path, text: &str) {
    std::fs::write(file, text).unwrap();
}

#[test]
fn a_file_is_planned_and_applied() {
    let cluster = Cluster::start(3);
    cluster.echo_folder();
    let file = cluster.scratch("file").join("nebula.toml");
    write(&file, FILE);
    let file_flag = file.to_str().unwrap();
    let run = |words: &str| {
        let mut args = vec!["deploy"];
        let (command, rest) = words.split_once(' ').unwrap_or((words, ""));
        args.extend([command, "-f", file_flag]);
        args.extend(rest.split_whitespace());
        cluster.nebula(&args)
    };

    // A plan says what would come, in words and for scripts, and nothing has come.
    let plan = run("plan").ok();
    assert!(plan.stdout.contains("api would be created"), "{plan}");
    assert!(plan.stdout.contains("+ env.SECRET"), "{plan}");
    assert!(!plan.stdout.contains("hush"), "{plan}");
    let plan = run("plan --exit-code --json");
    assert_eq!((plan.code, plan.stderr.as_str()), (6, ""), "{plan}");
    assert_eq!(plan.json()["action"], "create");
    cluster
        .nebula(&["deploy", "status", "api"])
        .fails(1, "no deployment named 'api'");

    run("apply --message first --timeout 60s").ok();
    let status = cluster.status("api");
    assert_eq!(
        (&status["ready"], &status["release"]),
        (&2.into(), &1.into()),
        "{status}"
    );
    cluster.serves(cluster.members[1].edge, "api.example.test");

    // The same again is nothing.
    let plan = run("plan --exit-code").ok();
    assert!(plan.stdout.contains("nothing would change"), "{plan}");
    let again = run("apply").ok();
    assert!(
        again.stdout.contains("api is unchanged: release 1"),
        "{again}"
    );
    assert_eq!(run("apply --json").ok().json()["unchanged"], true);
    assert_eq!(cluster.status("api")["generation"], status["generation"]);

    // One field, and it is a release; the number alone is none.
    write(&file, &FILE.replace("\"info\"", "\"warn\""));
    let plan = run("plan").ok();
    assert!(plan.stdout.contains("new release"), "{plan}");
    assert!(plan.stdout.contains("~ env.LEVEL"), "{plan}");
    assert_eq!(plan.stdout.lines().count(), 2, "{plan}");
    run("apply --timeout 60s").ok();
    let second = cluster.status("api");
    assert_eq!(
        (&second["release"], &second["spec"]["env"]["LEVEL"]),
        (&2.into(), &"warn".into())
    );
    let fewer = FILE.replace("\"info\"", "\"warn\"").replace("= 2", "= 1");
    write(&file, &fewer);
    assert!(run("plan").ok().stdout.contains("~ instances: 2 -> 1"));
    run("apply --timeout 60s").ok();
    let third = cluster.status("api");
    assert_eq!(
        (&third["release"], &third["ready"]),
        (&2.into(), &1.into()),
        "{third}"
    );

    // An environment is a deployment of its own.
    run("apply --env staging --timeout 60s").ok();
    let staging = cluster.status("staging-api");
    assert_eq!(
        (&staging["ready"], &staging["spec"]["env"]["LEVEL"]),
        (&1.into(), &"debug".into())
    );
    cluster.serves(cluster.members[2].edge, "staging-api.example.test");
    assert_eq!(cluster.status("api")["generation"], third["generation"]);
    assert!(
        run("plan --env staging")
            .ok()
            .stdout
            .contains("nothing would change")
    );

    // What the cluster would refuse the plan is refused too: of a new deployment, and of one that is there.
    for (had, has) in [
        ("stop_grace", "depends_on = [\"nowhere\"]\nstop_grace"),
        (
            "\"example.test\"",
            "\"other.test\"\nsecrets = [\"NOWHERE\"]",
        ),
    ] {
        for name in ["\"api\"", "\"fresh\""] {
            write(&file, &FILE.replace(had, has).replace("\"api\"", name));
            let planned = run("plan");
            let applied = run("apply");
            assert_ne!(planned.code, 0, "{planned}");
            assert_eq!(
                (planned.code, &planned.stderr),
                (applied.code, &applied.stderr)
            );
        }
    }
    cluster
        .nebula(&["deploy", "status", "fresh"])
        .fails(1, "no deployment named 'fresh'");

    // What is wrong is told at its place and changes nothing.
    write(&file, &FILE.replace("instances = 2", "instanses = 2"));
    run("apply").fails(
        2,
        "line 6, column 1: unknown field 'instanses': did you mean 'instances'?",
    );
    assert_eq!(cluster.status("api")["generation"], third["generation"]);
}

#[test]
fn a_first_file_is_applied_as_it_is_written() {
    let cluster = Cluster::start(1);
    let site = cluster.site_folder("first", "<h1>first</h1>");
    let (folder, file) = (site.to_str().unwrap(), site.join("nebula.toml"));
    cluster
        .nebula(&["deploy", "init", folder, "--name", "site"])
        .ok();
    cluster
        .nebula(&["deploy", "init", folder])
        .fails(1, "already");
    let text = std::fs::read_to_string(&file).unwrap();
    write(
        &file,
        &text.replace("# tld = \"example.test\"", "tld = \"example.test\""),
    );
    let args = [
        "deploy",
        "apply",
        "-f",
        file.to_str().unwrap(),
        "--timeout",
        "60s",
    ];
    cluster.nebula(&args).ok();
    let edge = cluster.members[0].edge;
    assert_eq!(
        cluster.serves(edge, "site.example.test").text(),
        "<h1>first</h1>"
    );
    let hidden = nebula_cluster_tests::http::get(edge, "site.example.test", "/nebula.toml");
    assert_eq!(
        hidden.unwrap().status,
        404,
        "the file is no part of the site"
    );
    assert!(cluster.nebula(&args).ok().stdout.contains("unchanged"));
}
