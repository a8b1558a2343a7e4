//! Static sites: files of an unpacked artifact over HTTP.
//!
//! What may be served is decided by the artifact's manifest alone, which lists its files by path; a
//! request's path is only ever looked up in it. So nothing outside an artifact can be asked for,
//! whatever the path looks like.
//!
//! Rules:
//! - `/dir/` is `/dir/index.html`; `/dir` is sent there (301). Other paths are files, spelled exactly.
//! - Names that begin with a dot are not served, apart from `/.well-known/` (RFC 8615): a `.git` or
//!   `.env` that slipped into a build stays private.
//! - The strong ETag is the content's hash, with a suffix for a coding. There is no `Last-Modified`: an
//!   artifact's files carry no time that means anything, so `If-Modified-Since` has nothing to compare
//!   with (RFC 9110 section 13.1.3).
//! - Names with a content hash may be cached for good, everything else is asked for again and
//!   answered 304; see [`content`].
//! - A site with `404.html` answers unknown paths with it; a single-page application answers those that
//!   look like pages with `/index.html`.

mod cache;
mod conditions;
mod content;
mod files;
mod manifest;
mod negotiate;
mod path;
mod respond;

use std::path::PathBuf;
use std::sync::Arc;

use http::header::{self, HeaderMap};
use http::{Method, Request, Response, StatusCode};
use nebula_domain::Digest;
use nebula_wire::peer::tunnel::Site;

pub(crate) use negotiate::accepts_html;

use crate::body::ResponseBody;
use crate::config::Limits;
use crate::pages::Problem;
use files::{Files, Tree};
use manifest::{Entry, Manifests};
use path::{Lookup, SitePath};

/// All static sites of one node; shared by its edge threads and its tunnels.
pub(crate) struct Sites {
    trees_dir: PathBuf,
    manifests: Manifests,
    files: Files,
}

/// A file found for a request.
struct Found<'a> {
    path: &'a str,
    entry: Entry,
    status: StatusCode,
    /// Which answer was given depended on the `Accept` field.
    by_accept: bool,
}

impl Sites {
    pub(crate) fn new(trees_dir: PathBuf, limits: &Limits) -> Sites {
        Sites {
            manifests: Manifests::new(trees_dir.clone(), limits.manifest_cache_bytes),
            files: Files::new(limits),
            trees_dir,
        }
    }

    /// Whether an artifact is unpacked here.
    pub(crate) async fn has(&self, artifact: Digest) -> bool {
        self.manifests.get(artifact).await.is_ok()
    }

    /// Answers a request for a file of the site; `name` is the deployment's, for error pages.
    pub(crate) async fn answer<B>(
        &self,
        site: Site,
        name: &str,
        request: &Request<B>,
    ) -> Result<Response<ResponseBody>, Problem> {
        let no_such_file = || Problem::NoSuchFile(name.to_owned());
        let unreadable = |error: std::io::Error| {
            tracing::warn!(artifact = %site.artifact, %error, "a static site's files cannot be read");
            Problem::Unreadable(name.to_owned())
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Problem::NotAllowed(name.to_owned()));
        }
        let manifest = self
            .manifests
            .get(site.artifact)
            .await
            .map_err(unreadable)?;
        let tree = Tree {
            root: self.trees_dir.join(site.artifact.to_string()),
        };
        let Some(asked) = SitePath::parse(request.uri().path()) else {
            return Err(no_such_file());
        };
        let mut lookup = asked.lookup(&manifest);
        if matches!(lookup, Lookup::Nothing)
            && let Some(real) = tree.behind_links(&asked).await
        {
            lookup = real.lookup(&manifest);
        }
        let found = match lookup {
            Lookup::File(path) => {
                let entry = manifest.file(&path).ok_or_else(no_such_file)?;
                (path, entry, StatusCode::OK, false)
            }
            Lookup::Folder => return Ok(respond::to_folder(&asked, request.uri().query())),
            Lookup::Nothing => {
                let page = site.spa && asked.looks_like_a_page() && wants_html(request.headers());
                let (path, status) = match page {
                    true => ("index.html", StatusCode::OK),
                    false => ("404.html", StatusCode::NOT_FOUND),
                };
                let entry = manifest.file(path).ok_or_else(no_such_file)?;
                (path.to_owned(), entry, status, site.spa)
            }
        };
        let found = Found {
            path: &found.0,
            entry: found.1,
            status: found.2,
            by_accept: found.3,
        };
        respond::file(&self.files, Arc::new(tree), found, request)
            .await
            .map_err(unreadable)
    }
}

/// What a head says, read as [`Sites::answer`] reads it.
#[cfg(test)]
pub(crate) fn read_head(request: &Request<()>) {
    let headers = request.headers();
    let _ = (wants_html(headers), negotiate::accepts_gzip(headers));
    for length in [None, Some(0), Some(10)] {
        let _ = conditions::judge(headers, true, "\"a-tag\"", length);
    }
    let Some(asked) = SitePath::parse(request.uri().path()) else {
        return;
    };
    let _ = asked.looks_like_a_page();
    let _ = respond::to_folder(&asked, request.uri().query());
}

fn wants_html(headers: &HeaderMap) -> bool {
    accepts_html(headers.get(header::ACCEPT))
}
