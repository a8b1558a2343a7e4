//! JSON of a deployment's HTTP policy; also the shape of the file that `nebula deploy --http` reads.
//!
//! Values are text as people write it: times (`30s`), sizes (`10MiB`), rates (`10r/s burst=20`). What is left out
//! has its default, and what has its default is left out when a policy is told. `docs/http.md` says what each means.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A deployment's HTTP policy. Unknown fields are refused: a protection with a slip in its name protects nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Names besides `<name>.<tld>`: `shop.example.test`, `*.shop.example.test`, `example.test/shop`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Requests that get another answer; longest path first, then in this order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<HttpRule>,
    /// Weights of releases: `{"r3": 90, "r4": 10}`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, u32>,
    /// `on` (plain HTTP is redirected), `both` or `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https: Option<String>,
    /// How large a request may be, and how long nothing may move.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: HttpLimits,
    /// `per_try=60s whole=2m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadlines: Option<String>,
    /// `per_instance=1024 total=8192 queue=1024 wait=1s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<String>,
    /// How many requests a client may send.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rate_limits: Vec<HttpRateLimit>,
    /// `tries=3 budget=20% min_per_second=10 window=10s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<String>,
    /// `off` or `after=200ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedge: Option<String>,
    /// `http1` or `h2c`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// `power-of-two`, `round-robin`, `least-connections`, `hash address`, `hash header NAME`, `hash cookie NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<String>,
    /// `off`, `on` or `cookie=nebula_instance max_age=1h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<String>,
    /// `off`, `on` or `max_fails=3 fail_timeout=30s max_ejected=50%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejection: Option<String>,
    /// `off`, `on` or `failures=50% window=10s min_requests=20 open=5s probes=3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<String>,
    /// `off`, `on` or `window=30s from=10%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<String>,
    /// Security headers of the answers.
    #[serde(skip_serializing_if = "is_default")]
    pub security: HttpSecurity,
    /// Which other sites may read its answers.
    #[serde(skip_serializing_if = "is_default")]
    pub cors: HttpCors,
    /// A page in place of every answer.
    #[serde(skip_serializing_if = "is_default")]
    pub maintenance: HttpMaintenance,
    /// A password in front of it.
    #[serde(skip_serializing_if = "is_default")]
    pub basic_auth: HttpBasicAuth,
    /// Which clients come in at all.
    #[serde(skip_serializing_if = "is_default")]
    pub addresses: HttpAddresses,
    /// Answers that are kept and given again.
    #[serde(skip_serializing_if = "is_default")]
    pub cache: HttpCache,
    /// `off`, `json` or `combined`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<String>,
    /// `Name: value`, set on every response.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub response_headers: Vec<String>,
}

impl Http {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        is_default(self)
    }

    /// Whether some user's password is to stay what it is: told users have no hash.
    pub fn keeps_passwords(&self) -> bool {
        self.basic_auth.users.iter().any(|line| !line.contains(':'))
    }
}

/// All that a rule names must be so. Without `to`, `redirect` and `status` the deployment itself answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpRule {
    /// One of the deployment's names; any of them when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// A prefix of whole segments; `/` when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Exactly these methods, such as `GET`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// `name` (present) or `name: value` (exactly).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// Name of the deployment that answers instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Take the path's prefix away before the request goes on.
    #[serde(skip_serializing_if = "is_default")]
    pub strip_prefix: bool,
    /// `https://www.example.test{path}{query}`; also `{scheme}`, `{host}` and `{rest}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect: Option<String>,
    /// Of the redirect: 301, 302, 307 or 308.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// Answer with this status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Text of that answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpLimits {
    /// A size, or `unlimited`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Request line and headers: a size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    /// Path and query: a size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// How long nothing may move once an answer has begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpRateLimit {
    /// `10r/s burst=20 nodelay`.
    pub limit: String,
    /// `address`, `header NAME` or `deployment`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Paths that do not count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exempt: Vec<String>,
    /// One count for all nodes, approximately.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cluster: bool,
}

/// Values of security headers; `off` leaves one out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpSecurity {
    /// `on` or `off`: whether headers that are not named here have their default values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub defaults: Option<String>,
    /// Value of `X-Frame-Options`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame_options: Option<String>,
    /// Value of `X-Content-Type-Options`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type_options: Option<String>,
    /// Value of `Referrer-Policy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub referrer_policy: Option<String>,
    /// Value of `Content-Security-Policy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_security_policy: Option<String>,
    /// Value of `X-XSS-Protection`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xss_protection: Option<String>,
    /// `180d`, `730d include_subdomains preload`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hsts: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpCors {
    /// Without any, CORS is the application's own affair.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<String>,
    /// Methods that they may use besides the simple ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Headers that they may send.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// Headers of the answer that they may read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expose: Vec<String>,
    /// Whether their cookies come along.
    #[serde(skip_serializing_if = "is_default")]
    pub credentials: bool,
    /// How long a browser may keep what it was told of this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpMaintenance {
    /// Whether everybody gets the page.
    #[serde(skip_serializing_if = "is_default")]
    pub on: bool,
    /// HTML; the proxy's own page when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
    /// When to come again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<String>,
    /// Networks that get through.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exempt: Vec<String>,
}

#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpBasicAuth {
    /// What the browser says that the password is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub realm: Option<String>,
    /// Lines of `htpasswd -nB`. Told without the hash; such a line keeps the password that is stored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
}

/// Names of users only.
impl std::fmt::Debug for HttpBasicAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = |line: &String| line.split(':').next().unwrap_or_default().to_owned();
        f.debug_struct("HttpBasicAuth")
            .field("realm", &self.realm)
            .field("users", &self.users.iter().map(name).collect::<Vec<_>>())
            .finish()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpAddresses {
    /// With any, nobody else comes in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Networks and addresses that do not come in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpCache {
    /// Whether answers that allow it are kept.
    #[serde(skip_serializing_if = "is_default")]
    pub on: bool,
    /// A larger answer is not kept: a size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_response: Option<String>,
    /// How long an answer is fresh that does not say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_ttl: Option<String>,
    /// How long an old one may be given while a new one is fetched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_while_revalidate: Option<String>,
    /// How long an old one may be given instead of an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_if_error: Option<String>,
}
