//! JSON bodies from clients that mean no good.

use axum::Json;
use nebula_domain::{DeploymentName, settings};
use nebula_testkit::fuzz::Target;
use nebula_wire::api::{
    CreateDeployment, CreateJoinToken, DeploymentSpec, JoinRequest, Scale, SettingValue,
    UpdateDeployment,
};
use nebula_wire::convert::{self, Passwords};
use serde::de::DeserializeOwned;

fn body<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    Json::<T>::from_bytes(bytes).ok().map(|Json(value)| value)
}

/// A spec that is taken means the same when it is told and taken again.
fn spec(wire: &DeploymentSpec) {
    let none = Passwords::Stored(&[]);
    if let Ok(spec) = convert::spec(wire, Some("example.test"), none) {
        let told = convert::told_spec(&spec);
        let stored = Passwords::Stored(&spec.http.basic_auth.users);
        assert_eq!(convert::spec(&told, None, stored), Ok(spec.clone()));
    }
}

fn read(bytes: &[u8]) -> bool {
    let mut understood = false;
    if let Some(create) = body::<CreateDeployment>(bytes) {
        let _ = create.name.parse::<DeploymentName>();
        let _ = crate::artifacts::parse(&create.artifact);
        spec(&create.spec);
        understood = true;
    }
    if let Some(update) = body::<UpdateDeployment>(bytes) {
        update.spec.iter().for_each(spec);
        understood = true;
    }
    if let Some(token) = body::<CreateJoinToken>(bytes) {
        let _ = convert::role(&token.role);
        understood = true;
    }
    if let Some(setting) = body::<SettingValue>(bytes) {
        let _ = settings::check("user.x", &setting.value);
        let _ = settings::check(settings::DEFAULT_TLD, &setting.value);
        understood = true;
    }
    understood | body::<Scale>(bytes).is_some() | body::<JoinRequest>(bytes).is_some()
}

#[test]
fn fuzz_json_bodies() {
    let service = r#"{"type":"service","command":"./run \u00e4","tld":"example.test","env":{"A":"1","B_2":"two\n"},"probe":{"type":"http","path":"/health","period_ms":500,"timeout_ms":100},"stop_grace_ms":3000,"spa":false}"#;
    let site = r#"{"type":"static","spa":true,"http":{"names":["a.test/x","*.a.test"],"rules":[{"path":"/a","redirect":"/b{rest}{query}","code":302},{"headers":["x: y"],"status":404}],"weights":{"r1":1},"rate_limits":[{"limit":"10r/s burst=20 nodelay","exempt":["/h"]}],"limits":{"body":"1m","idle":"5s"},"security":{"hsts":"1d","frame_options":"off"},"cors":{"origins":["https://a.test"]},"addresses":{"deny":["10.0.0.0/8"]},"sticky":"on","basic_auth":{"users":["ann:$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i"]}}}"#;
    let digest = "ab".repeat(32);
    let corpus = [
        format!(r#"{{"name":"api","spec":{service},"instances":3,"artifact":"{digest}"}}"#),
        format!(r#"{{"name":"web","spec":{site},"instances":1,"artifact":"{digest}"}}"#),
        format!(r#"{{"spec":{service},"artifact":"{digest}","based_on":4}}"#),
        r#"{"instances":7}"#.to_owned(),
        r#"{"value":"mycompany.com"}"#.to_owned(),
        r#"{"role":"worker","ttl_seconds":3600,"reusable":false}"#.to_owned(),
    ];
    let target = Target {
        name: "api: JSON bodies",
        corpus: corpus.map(String::into_bytes).to_vec(),
        words: &[
            "null",
            "{",
            "[[[[[[[[",
            "}",
            "\"",
            "\\u0000",
            "\\ud800",
            "-1",
            "1e999",
            "18446744073709551616",
            "\"env\":{",
            "\"spec\":",
            "true",
            ",",
        ],
        max_bytes: 64 * 1024,
        allocated_per_byte: 128,
        allocated_bytes: 256 * 1024,
        understood_percent: 10,
    };
    target.run(read);
}
