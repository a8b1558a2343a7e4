//! Static sites: files of an unpacked artifact over HTTP. For people: `docs/static-sites.md`.
//!
//! What may be served is decided by the artifact's manifest alone, which lists its files by path; a
//! request's path is only ever looked up in it. So nothing outside an artifact can be asked for,
//! whatever the path looks like.
//!
//! Rules:
//! - `/dir/` is `/dir/index.html`; `/about` is `/about.html` where there is no file `about`; `/dir` is sent
//!   to `/dir/` (301). Other paths are files, spelled exactly.
//! - Names that begin with a dot are not served, apart from `/.well-known/` (RFC 8615): a `.git` or
//!   `.env` that slipped into a build stays private. Nor are `/_headers` and `/_redirects`, which are
//!   followed: [`nebula_domain::site`].
//! - The strong ETag is the hash of the bytes that are sent, so each coding has its own. There is no
//!   `Last-Modified`: an artifact's files carry no time that means anything, so `If-Modified-Since` has
//!   nothing to compare with (RFC 9110 section 13.1.3).
//! - Text is sent compressed to those who take it, in forms that the store made beforehand or that the
//!   artifact brings. Nothing is compressed for a request.
//! - Names with a content hash may be cached for good, everything else is asked for again and
//!   answered 304; see [`content`].
//! - A site with `404.html` answers unknown paths with it; a single-page application answers those that
//!   look like pages with `/index.html`.

mod ask;
mod cache;
mod conditions;
mod content;
mod files;
#[cfg(test)]
mod fuzz;
mod manifest;
mod multipart;
mod negotiate;
mod open;
mod packed;
mod page;
mod path;
pub(crate) mod ranges;
mod respond;
mod site;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use http::{Method, Response, StatusCode};
use nebula_domain::Digest;
use nebula_domain::site::Action;
use nebula_wire::peer::tunnel;

pub(crate) use ask::Ask;
pub(crate) use negotiate::accepts_html;

use crate::body::ResponseBody;
use crate::config::Limits;
use crate::pages::Problem;
use files::Files;
use page::Page;
use path::{Lookup, SitePath};
use respond::Found;
use site::{Loaded, Site};

/// All static sites of one node; shared by its edge threads and its tunnels.
pub(crate) struct Sites {
    loaded: Loaded,
    files: Files,
}

impl Sites {
    pub(crate) fn new(trees_dir: PathBuf, limits: &Limits) -> Sites {
        Sites {
            loaded: Loaded::new(trees_dir, limits.manifest_cache_bytes),
            files: Files::new(limits),
        }
    }

    /// Whether an artifact is unpacked here.
    pub(crate) async fn has(&self, artifact: Digest) -> bool {
        self.loaded.get(artifact).await.is_ok()
    }

    /// Answers a request for a file of the site; `name` is the deployment's, for error pages.
    pub(crate) async fn answer(
        &self,
        site: tunnel::Site,
        name: &str,
        ask: &Ask<'_>,
    ) -> Result<Response<ResponseBody>, Problem> {
        if !matches!(*ask.method, Method::GET | Method::HEAD) {
            return Err(Problem::NotAllowed(name.to_owned()));
        }
        match self.find_and_send(site, ask).await {
            Ok(Some(response)) => Ok(response),
            Ok(None) => Err(Problem::NoSuchFile(name.to_owned())),
            Err(error) => {
                tracing::warn!(artifact = %site.artifact, %error, "a static site's files cannot be read");
                Err(Problem::Unreadable(name.to_owned()))
            }
        }
    }

    async fn find_and_send(
        &self,
        site: tunnel::Site,
        ask: &Ask<'_>,
    ) -> io::Result<Option<Response<ResponseBody>>> {
        let loaded = self.loaded.get(site.artifact).await?;
        // Nothing else is looked at for a path that was asked for lately.
        let known = match loaded.redirects.has_forced() {
            true => None,
            false => loaded.page(ask.path),
        };
        let answer = match known {
            Some(page) => Answer::File(Found {
                page,
                status: StatusCode::OK,
                by_accept: false,
            }),
            None => find(&loaded, site.spa, ask).await?,
        };
        match answer {
            Answer::File(found) => respond::file(&self.files, &loaded.tree, &found, ask)
                .await
                .map(Some),
            Answer::Elsewhere(response) => Ok(Some(response)),
            Answer::Nothing => Ok(None),
        }
    }
}

enum Answer {
    File(Found),
    Elsewhere(Response<ResponseBody>),
    Nothing,
}

/// What a request is for, by the site's files first and its rules where there is no file.
async fn find(site: &Site, spa: bool, ask: &Ask<'_>) -> io::Result<Answer> {
    let Some(asked) = SitePath::parse(ask.path) else {
        return Ok(Answer::Nothing);
    };
    let mut lookup = asked.lookup(&site.manifest);
    if matches!(lookup, Lookup::Nothing)
        && site.manifest.links
        && !asked.is_hidden()
        && let Some(real) = site.tree.behind_links(&asked).await
    {
        lookup = real.lookup(&site.manifest);
    }
    let exists = !matches!(lookup, Lookup::Nothing);
    match site.redirects.find(asked.as_str(), ask.query, exists) {
        Some(Action::Redirect { status, location }) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND);
            return Ok(Answer::Elsewhere(respond::redirect(status, location)));
        }
        Some(Action::Show { status, path }) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
            if let Some(path) = shown(site, &path) {
                return page(site, &asked, &path, None, status, false);
            }
            // The target is not there, so nothing is.
            lookup = Lookup::Nothing;
        }
        None => {
            let own = spa && !exists && !asked.is_hidden() && asked.looks_like_a_page();
            if own && negotiate::wants_html(&ask.fields.accept) {
                return page(site, &asked, "index.html", None, StatusCode::OK, true);
            }
        }
    }
    match lookup {
        Lookup::File(path) => page(site, &asked, &path, Some(ask.path), StatusCode::OK, false),
        Lookup::Folder => Ok(Answer::Elsewhere(respond::to_folder(&asked, ask.query))),
        Lookup::Nothing => {
            let status = StatusCode::NOT_FOUND;
            page(site, &asked, "404.html", None, status, spa)
        }
    }
}

/// The file that a rule shows, which is found as if it had been asked for.
fn shown(site: &Site, target: &str) -> Option<String> {
    let target = SitePath::parse(target)?;
    match target.lookup(&site.manifest) {
        Lookup::File(path) => Some(path),
        Lookup::Folder => Some(format!("{}/index.html", target.as_str())),
        Lookup::Nothing => None,
    }
}

/// The prepared file, or prepares it. `own` is the path of the request where that is the file's own.
fn page(
    site: &Site,
    asked: &SitePath,
    path: &str,
    own: Option<&str>,
    status: StatusCode,
    by_accept: bool,
) -> io::Result<Answer> {
    let Some(entry) = site.manifest.file(path) else {
        return Ok(Answer::Nothing);
    };
    let key = match own {
        Some(own) => Some(Cow::Borrowed(own)),
        // For any path that has none of its own it is the same, where no rules for headers go by the path.
        // No request has a path like this key.
        None if site.headers.is_empty() => Some(Cow::Owned(format!("\0{path}"))),
        None => None,
    };
    let page = match key.as_ref().and_then(|key| site.page(key)) {
        Some(page) => page,
        None => {
            let page = Arc::new(Page::new(site, path, entry, asked.as_str())?);
            if let Some(key) = key {
                site.keep_page(&key, &page);
            }
            page
        }
    };
    Ok(Answer::File(Found {
        page,
        status,
        by_accept,
    }))
}

/// What a head says, read as [`Sites::answer`] reads it.
#[cfg(test)]
pub(crate) fn read_head(ask: &Ask<'_>) {
    let _ = negotiate::wants_html(&ask.fields.accept);
    let _ = negotiate::Welcome::read(&ask.fields.accept_encoding);
    for length in [0, 10] {
        let _ = conditions::judge(&ask.fields, true, b"\"a-tag\"", length);
    }
    let Some(asked) = SitePath::parse(ask.path) else {
        return;
    };
    let _ = asked.looks_like_a_page();
    let _ = respond::to_folder(&asked, ask.query);
}
