//! Each kind of folder, and that what is written for it is a deployment.

use std::path::{Path, PathBuf};

use super::*;
use crate::manifest::{self, FILE, Manifest};

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

fn written(dir: &Path) -> Manifest {
    let first = first(dir, None);
    let path = dir.join(FILE);
    std::fs::write(&path, &first.text).unwrap();
    manifest::read(&path, None, &|_| None).unwrap_or_else(|e| panic!("{e}\n{}", first.text))
}

fn command(manifest: &Manifest) -> &str {
    manifest.spec.command.as_deref().unwrap_or("static")
}

#[test]
fn each_kind_of_folder_is_recognised_and_its_file_is_legal() {
    let cases: &[(&[(&str, &str)], &str, &str, &str)] = &[
        (
            &[(
                "package.json",
                r#"{"name": "@acme/Web_Shop", "scripts": {"start": "node ."}}"#,
            )],
            "web-shop",
            "npm start",
            ".",
        ),
        (
            &[
                (
                    "package.json",
                    r#"{"name": "front", "scripts": {"build": "vite build"}}"#,
                ),
                ("build/index.html", "x"),
            ],
            "front",
            "static",
            "build",
        ),
        (
            &[("package.json", r#"{"name": "front"}"#)],
            "front",
            "static",
            "dist",
        ),
        (
            &[
                ("package.json", r#"{"name": "old", "main": "my server.js"}"#),
                ("my server.js", ""),
            ],
            "old",
            "node 'my server.js'",
            ".",
        ),
        (
            &[
                ("requirements.txt", "Flask==3\ngunicorn>=21\n"),
                ("wsgi.py", ""),
                ("pyproject.toml", "[project]\nname = 'api'"),
            ],
            "api",
            "gunicorn --bind 127.0.0.1:$PORT wsgi:app",
            ".",
        ),
        (
            &[
                (
                    "pyproject.toml",
                    "[tool.poetry]\nname = 'fast'\n[project]\ndependencies = ['uvicorn[standard]']",
                ),
                ("main.py", ""),
            ],
            "fast",
            "uvicorn --host 127.0.0.1 --port $PORT main:app",
            ".",
        ),
        (
            &[
                (
                    "pyproject.toml",
                    "[project]\nname = 'wiki'\ndependencies = ['flask']",
                ),
                ("app.py", ""),
            ],
            "wiki",
            "flask --app app run --host 127.0.0.1 --port $PORT",
            ".",
        ),
        (
            &[(
                "Cargo.toml",
                "[package]\nname = 'tool'\n[[bin]]\nname = 'served'",
            )],
            "tool",
            "./served",
            "dist",
        ),
        (
            &[("go.mod", "module example.com/team/greeter\n\ngo 1.22\n")],
            "greeter",
            "./greeter",
            "dist",
        ),
        (
            &[
                (
                    "Dockerfile",
                    "FROM x\nEXPOSE 80\nCMD [\"serve\", \"--port\", \"$PORT\", \"a b\"]\n",
                ),
                ("name", ""),
            ],
            "",
            "serve --port $PORT 'a b'",
            ".",
        ),
        (&[("index.html", "<h1>")], "", "static", "."),
        (&[("public/index.html", "<h1>")], "", "static", "public"),
        (&[], "", "static", "."),
    ];
    for (files, name, program, path) in cases {
        let dir = folder(files);
        let manifest = written(dir.path());
        assert_eq!(command(&manifest), *program, "{files:?}");
        assert_eq!(manifest.folder, dir.path().join(path), "{files:?}");
        if !name.is_empty() {
            assert_eq!(manifest.name.as_str(), *name, "{files:?}");
        }
    }
    let alone = folder(&[("app.py", "")]);
    assert_eq!(command(&written(alone.path())), "python3 app.py");
}

#[test]
fn what_a_dockerfile_says_stands_beside_it() {
    let dir = folder(&[
        ("app.py", ""),
        ("Dockerfile", "EXPOSE 8000\ncmd python app.py\u{7}\n"),
    ]);
    let first = first(dir.path(), None);
    assert!(
        first.text.contains("# The Dockerfile says: EXPOSE 8000\n"),
        "{}",
        first.text
    );
    assert!(
        first.text.contains("cmd python app.py \n"),
        "{}",
        first.text
    );
}

#[test]
fn names_are_made_legal_or_asked_for() {
    for (text, name) in [
        ("Web_Shop", Some("web-shop")),
        ("@scope/x", Some("x")),
        ("--", None),
        ("äö", None),
    ] {
        assert_eq!(legal(text).as_deref(), name, "{text}");
    }
    let dir = folder(&[("index.html", "")]);
    let name: DeploymentName = "mine".parse().unwrap();
    assert!(
        first(dir.path(), Some(&name))
            .text
            .contains("name = \"mine\"\n")
    );
}

/// Whatever the files hold, what is written is read again.
#[test]
fn hostile_files_make_no_illegal_file() {
    let hostile = "\"\n[env]\nX = '1'\n# ''' \"\"\" \u{1b}[0m\\";
    let package = serde_json::json!({"name": hostile, "main": hostile}).to_string();
    let cargo = format!("[package]\nname = {}", toml::Value::from(hostile));
    let docker = format!("CMD {}", serde_json::json!([hostile]));
    for (name, text) in [
        ("package.json", package),
        ("Cargo.toml", cargo),
        ("Dockerfile", docker),
        ("go.mod", format!("module {hostile}")),
    ] {
        let dir = folder(&[(name, &text)]);
        let manifest = written(dir.path());
        assert!(manifest.spec.env.is_empty());
        assert_ne!(manifest.folder, PathBuf::new());
    }
}
