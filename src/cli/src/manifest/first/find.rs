//! What a folder holds, by the files that build tools know it by. The first that fits is taken.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::Found;

/// Far over what any of these files holds; what is larger is not read.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Where build tools put finished sites (Vite, Parcel; Create React App; Next.js; Hugo, Gatsby).
const BUILT: &[&str] = &["dist", "build", "out", "public"];
const INDEX: &str = "index.html";
/// Where programs that have to be compiled are put for deployment.
const DIST: &str = "dist";

pub fn find(dir: &Path) -> Found {
    let found = node(dir)
        .or_else(|| python(dir))
        .or_else(|| rust(dir))
        .or_else(|| go(dir))
        .or_else(|| site(dir))
        .or_else(|| docker(dir));
    let mut found = found.unwrap_or_else(|| Found {
        by: "an empty or unknown folder".to_owned(),
        path: ".".to_owned(),
        notes: vec!["Nothing here was recognised: name the folder with the files, and a command if it is a program.".to_owned()],
        ..Found::default()
    });
    if found.by != DOCKERFILE && dir.join(DOCKERFILE).is_file() {
        found.notes.extend(hints(dir));
    }
    found
}

/// A small text file's content.
fn read(dir: &Path, name: &str) -> Option<String> {
    let path = dir.join(name);
    let size = fs::metadata(&path)
        .ok()
        .filter(fs::Metadata::is_file)?
        .len();
    if size > MAX_FILE_BYTES {
        return None;
    }
    fs::read_to_string(path).ok()
}

/// The folder with a finished site in it.
fn built(dir: &Path) -> Option<&'static str> {
    BUILT
        .iter()
        .copied()
        .find(|name| dir.join(name).join(INDEX).is_file())
}

fn node(dir: &Path) -> Option<Found> {
    let package: Value = serde_json::from_str(&read(dir, "package.json")?).ok()?;
    let name = package["name"].as_str().map(str::to_owned);
    let by = "package.json".to_owned();
    if package["scripts"]["start"].is_string() {
        return Some(Found {
            by,
            name,
            path: ".".to_owned(),
            command: Some("npm start".to_owned()),
            notes: vec![
                "All of the folder is deployed, node_modules too; node has to be on the machines."
                    .to_owned(),
            ],
            ..Found::default()
        });
    }
    if let Some(built) = built(dir) {
        return Some(Found {
            by,
            name,
            path: built.to_owned(),
            spa: true,
            ..Found::default()
        });
    }
    let main = package["main"]
        .as_str()
        .filter(|main| dir.join(main).is_file());
    Some(match main {
        Some(main) => Found {
            by,
            name,
            path: ".".to_owned(),
            command: Some(format!("node {}", shell(main))),
            ..Found::default()
        },
        None => Found {
            by,
            name,
            path: DIST.to_owned(),
            spa: true,
            notes: vec![
                "Build it first ('npm run build'), and name the folder that the build fills."
                    .to_owned(),
            ],
            ..Found::default()
        },
    })
}

fn python(dir: &Path) -> Option<Found> {
    let requirements = read(dir, "requirements.txt");
    let project = read(dir, "pyproject.toml");
    let app = ["app.py", "main.py", "wsgi.py", "asgi.py", "server.py"];
    let app = app.into_iter().find(|name| dir.join(name).is_file());
    let by = match (&requirements, &project, app) {
        (Some(_), _, _) => "requirements.txt",
        (None, Some(_), _) => "pyproject.toml",
        (None, None, Some(app)) => app,
        (None, None, None) => return None,
    };
    let name = project.as_deref().and_then(project_name);
    let wanted = [requirements.as_deref(), project.as_deref()];
    let uses = |package: &str| {
        wanted
            .iter()
            .flatten()
            .any(|text| names_package(text, package))
    };
    let module = app.and_then(|app| app.strip_suffix(".py")).unwrap_or("app");
    let command = if uses("gunicorn") {
        format!("gunicorn --bind 127.0.0.1:$PORT {module}:app")
    } else if uses("uvicorn") {
        format!("uvicorn --host 127.0.0.1 --port $PORT {module}:app")
    } else if uses("flask") {
        format!("flask --app {module} run --host 127.0.0.1 --port $PORT")
    } else {
        format!("python3 {module}.py")
    };
    Some(Found {
        by: by.to_owned(),
        name,
        path: ".".to_owned(),
        command: Some(command),
        notes: vec![
            "All of the folder is deployed; Python and its packages have to be on the machines."
                .to_owned(),
        ],
        ..Found::default()
    })
}

/// Whether a word of this text is the package, however its version is given.
fn names_package(text: &str, package: &str) -> bool {
    text.to_ascii_lowercase()
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'))
        .any(|word| word == package)
}

fn project_name(text: &str) -> Option<String> {
    let project: toml::Table = text.parse().ok()?;
    let of = |table: Option<&toml::Value>| Some(table?.get("name")?.as_str()?.to_owned());
    of(project.get("project")).or_else(|| of(project.get("tool")?.get("poetry")))
}

fn rust(dir: &Path) -> Option<Found> {
    let cargo: toml::Table = read(dir, "Cargo.toml")?.parse().ok()?;
    let name = |value: &toml::Value| Some(value.get("name")?.as_str()?.to_owned());
    let binary = cargo
        .get("bin")
        .and_then(|bins| name(bins.as_array()?.first()?));
    let package = cargo.get("package").and_then(name);
    let binary = binary
        .or_else(|| package.clone())
        .unwrap_or_else(|| "app".to_owned());
    let built =
        format!("cargo build --release && install -D target/release/{binary} {DIST}/{binary}");
    Some(compiled("Cargo.toml", package, &binary, &built))
}

fn go(dir: &Path) -> Option<Found> {
    let text = read(dir, "go.mod")?;
    let module = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("module "));
    let module = module.map(|module| module.trim().trim_matches('"').to_owned());
    let last = module
        .as_deref()
        .and_then(|module| module.rsplit('/').next());
    let last = last.filter(|name| !name.is_empty());
    let binary = last.unwrap_or("app").to_owned();
    let built = format!("CGO_ENABLED=0 go build -o {DIST}/{binary} .");
    Some(compiled("go.mod", module, &binary, &built))
}

/// A program that one command builds into a folder of its own.
fn compiled(by: &str, name: Option<String>, binary: &str, built: &str) -> Found {
    Found {
        by: by.to_owned(),
        name,
        path: DIST.to_owned(),
        command: Some(shell(&format!("./{binary}"))),
        notes: vec![format!("Build it first: {}", one_line(built))],
        ..Found::default()
    }
}

fn site(dir: &Path) -> Option<Found> {
    if dir.join(INDEX).is_file() {
        return Some(Found {
            by: INDEX.to_owned(),
            path: ".".to_owned(),
            ..Found::default()
        });
    }
    let built = built(dir)?;
    Some(Found {
        by: format!("{built}/{INDEX}"),
        path: built.to_owned(),
        ..Found::default()
    })
}

const DOCKERFILE: &str = "Dockerfile";

/// Nothing else tells what it is: the image's command may do outside of it too.
fn docker(dir: &Path) -> Option<Found> {
    read(dir, DOCKERFILE)?;
    let mut notes = hints(dir);
    notes.push(
        "To run the image itself, save it with 'docker save NAME -o image.tar' and write image = \"image.tar\" in place of path and command."
            .to_owned(),
    );
    Some(Found {
        by: DOCKERFILE.to_owned(),
        path: ".".to_owned(),
        command: Some(image_command(dir).unwrap_or_else(|| "./run".to_owned())),
        notes,
        ..Found::default()
    })
}

/// What a Dockerfile says of the program, as remarks.
fn hints(dir: &Path) -> Vec<String> {
    let text = read(dir, DOCKERFILE).unwrap_or_default();
    let said = ["EXPOSE", "ENTRYPOINT", "CMD"];
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| {
        let word = line.split_whitespace().next().unwrap_or_default();
        said.iter().any(|said| said.eq_ignore_ascii_case(word))
    });
    lines
        .map(|line| format!("The Dockerfile says: {}", one_line(line)))
        .collect()
}

/// The last `CMD` (Dockerfile reference: only the last takes effect), as the shell takes it.
fn image_command(dir: &Path) -> Option<String> {
    let text = read(dir, DOCKERFILE)?;
    let argument = |line: &str| {
        let (word, rest) = line.trim().split_once(char::is_whitespace)?;
        word.eq_ignore_ascii_case("CMD")
            .then(|| rest.trim().to_owned())
    };
    let command = text.lines().filter_map(argument).next_back()?;
    let command = match serde_json::from_str::<Vec<String>>(&command) {
        Ok(words) => words
            .iter()
            .map(|word| shell(word))
            .collect::<Vec<_>>()
            .join(" "),
        Err(_) => command.trim_end_matches('\\').trim().to_owned(),
    };
    Some(one_line(&command)).filter(|command| !command.is_empty())
}

/// One word for the shell. A variable stays one: `$PORT` is what the program is told its port by.
fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=$@%+,{}".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Without what would end a comment's line.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
