//! Promise: a deployment answers under every name it claims and no other has one of them; what it says about its HTTP
//! can be changed without replacing an instance; passwords are kept and never told.

use nebula_cluster_tests::cluster::DEADLINE;
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Cluster, eventually, http};
use serde_json::{Value, json};

fn instances(status: &Value) -> Vec<String> {
    let all = status["instances"].as_array().unwrap();
    all.iter().map(|i| i["id"].to_string()).collect()
}

#[test]
fn a_name_belongs_to_one_deployment_on_every_node() {
    let cluster = Cluster::start(3);
    let site = cluster.site_folder("shop", "the shop");
    let other = cluster.site_folder("other", "another");
    let create = |name: &str, folder: &std::path::Path, names: &[&str]| {
        let mut args = vec!["deploy", "create", name, "--path", folder.to_str().unwrap()];
        args.extend(["--tld", "example.test", "--wait"]);
        args.extend(names.iter().flat_map(|name| ["--name", *name]));
        cluster.nebula(&args)
    };
    create("shop", &site, &["shop.test", "*.shop.test"]).ok();
    let urls = &cluster.status("shop")["urls"];
    assert_eq!(
        *urls,
        json!(["http://shop.example.test/", "http://shop.test/"])
    );
    for edge in cluster.edges() {
        for host in ["shop.example.test", "shop.test", "eu.shop.test"] {
            assert!(
                cluster.serves(edge, host).text().contains("the shop"),
                "{host}"
            );
        }
    }
    create("other", &other, &["shop.test"])
        .fails(1, "the name 'shop.test' belongs to the deployment 'shop'");
    create("other", &other, &["Shop.test"]).fails(2, "did you mean 'shop.test'?");

    // A name that is given back is free at once, and so is what a removed deployment had.
    create("other", &other, &[]).ok();
    cluster
        .nebula(&[
            "deploy",
            "update",
            "shop",
            "--unset-name",
            "shop.test",
            "--wait",
        ])
        .ok();
    cluster
        .nebula(&["deploy", "update", "other", "--name", "shop.test", "--wait"])
        .ok();
    for edge in cluster.edges() {
        eventually(DEADLINE, "the name's new deployment answers", || {
            let page = http::get(edge, "shop.test", "/")
                .map_err(|e| e.to_string())?
                .text();
            holds(page.contains("another"), page)
        });
    }
}

/// One request a second: an interval of more than a second can only be that of a part of it.
#[test]
fn nodes_share_a_limit_and_give_it_to_the_one_that_is_asked() {
    let cluster = Cluster::start(3);
    let (site, policy) = (cluster.site_folder("shop", "the shop"), "http.toml");
    let policy = cluster.scratch("http").join(policy);
    let rule = "[[rate_limits]]\nlimit = \"1r/s\"\nkey = \"deployment\"\ncluster = true\n";
    std::fs::write(&policy, rule).unwrap();
    let (site, policy) = (site.to_str().unwrap(), policy.to_str().unwrap());
    let create = ["deploy", "create", "shop", "--path", site, "--tld"];
    let rest = ["example.test", "--http", policy, "--wait"];
    cluster.nebula(&[&create[..], &rest[..]].concat()).ok();
    let refused = |edge| {
        let answer = http::get(edge, "shop.example.test", "/").ok()?;
        (answer.status == 429).then(|| answer.header("retry-after")?.parse::<u32>().ok())?
    };
    let edges = cluster.edges();
    for edge in &edges {
        cluster.serves(*edge, "shop.example.test");
    }
    let mut shared = vec![false; edges.len()];
    eventually(DEADLINE, "every node gives a part only", || {
        for (edge, shared) in edges.iter().zip(&mut shared) {
            *shared |= refused(*edge) > Some(1);
        }
        holds(shared.iter().all(|shared| *shared), format!("{shared:?}"))
    });
    eventually(DEADLINE, "the one that is still asked gives it all", || {
        let passed = http::get(edges[0], "shop.example.test", "/").is_ok_and(|a| a.status == 200);
        holds(passed && refused(edges[0]) == Some(1), "not yet".to_owned())
    });
}

#[test]
fn a_policy_changes_without_replacing_instances_and_keeps_its_passwords() {
    let mut cluster = Cluster::start(1);
    cluster.deploy_echo("api", 2);
    let before = cluster.status("api");
    assert_eq!(
        before["spec"]["http"],
        Value::Null,
        "nothing was said: {before}"
    );

    let scratch = cluster.scratch("http");
    let (password, file) = (scratch.join("password"), scratch.join("http.toml"));
    std::fs::write(&password, "s3cret\n").unwrap();
    let user = format!("ann:{}", password.display());
    let update = |cluster: &Cluster, flags: &[&str]| {
        let mut args = vec!["deploy", "update", "api", "--wait"];
        args.extend(flags);
        cluster.nebula(&args)
    };
    update(&cluster, &["--basic-auth", &user, "--max-body", "5MiB"]).ok();
    let after = cluster.status("api");
    assert_eq!(instances(&after), instances(&before));
    assert_eq!(after["release"], 2);
    let told = json!({"limits": {"body": "5MiB"}, "basic_auth": {"users": ["ann"]}});
    assert_eq!(after["spec"]["http"], told);

    // What was told can be given back, and keeps the password; nobody else's is there.
    std::fs::write(&file, "[basic_auth]\nusers = [\"ann\"]\n").unwrap();
    update(&cluster, &["--http", file.to_str().unwrap()]).ok();
    let told = json!({"basic_auth": {"users": ["ann"]}});
    assert_eq!(cluster.status("api")["spec"]["http"], told);
    std::fs::write(&file, "[basic_auth]\nusers = [\"bob\"]\n").unwrap();
    update(&cluster, &["--http", file.to_str().unwrap()])
        .fails(2, "no password is stored for 'bob'");
    std::fs::write(&file, "\n[basic_auth]\nuser = []\n").unwrap();
    update(&cluster, &["--http", file.to_str().unwrap()]).fails(
        2,
        "http.toml, line 3: unknown field 'user': did you mean 'users'?",
    );

    cluster.kill_daemon(0);
    cluster.restart(0);
    cluster.wait_all_alive();
    let again = cluster.status("api");
    assert_eq!(again["spec"]["http"], told);
    assert!(!again.to_string().contains("$2"), "no hash is told");
    assert_eq!(instances(&again), instances(&before));
}
