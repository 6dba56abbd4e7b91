//! Where passwords come from, and that they go nowhere else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::super::{Config, Secret};
use super::{problems, warnings, with_node};

/// A directory with a topology file in it; further files as (name, mode, text).
fn load(top: &str, sections: &str, files: &[(&str, u32, &str)]) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, mode: u32, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    for (name, mode, text) in files {
        write(name, *mode, text);
    }
    let path = write("t.toml", 0o644, &with_node(top, sections));
    let short = |text: String| text.replace(&format!("{}/", directory.path().display()), "");
    Config::load(&path)
        .map(|mut config| {
            for warning in &mut config.warnings {
                warning.0.file = short(warning.0.file.clone());
                warning.0.message = short(warning.0.message.clone());
            }
            config
        })
        .map_err(|problems| short(problems.to_string()))
}

fn shown(secret: &Option<Secret>) -> Option<&str> {
    secret.as_ref().map(Secret::expose)
}

#[test]
fn from_the_file_itself() {
    let config = load("", "[auth.query]\nuser = \"q\"\npassword = \"geheim\"\n", &[]).unwrap();
    assert_eq!(shown(&config.auth.query.as_ref().unwrap().password), Some("geheim"));
    assert_eq!(
        warnings(&config),
        ["7:12: a password in a file that others than its owner can read; chmod 600 keeps it secret"]
    );
    assert!(!format!("{config:?}").contains("geheim"));
    let config = load("", "[failover]\nuser = \"f\"\npassword = \"geheim\"\n[auth.query]", &[]).unwrap();
    assert_eq!(
        warnings(&config),
        ["7:12: a password in a file that others than its owner can read; chmod 600 keeps it secret"]
    );
}

#[test]
fn from_the_environment() {
    let text = with_node("", "[health]\npassword_env = \"P\"\n[auth.query]");
    let parse =
        |value: Option<&str>| Config::parse(&text, "t.toml", &|name| value.filter(|_| name == "P").map(str::to_owned));
    assert_eq!(shown(&parse(Some("geheim\n")).unwrap().health.password), Some("geheim"));
    assert_eq!(
        parse(None).unwrap_err().to_string(),
        "t.toml:6:16: health.password_env: the environment has no variable P"
    );
    assert_eq!(
        parse(Some("")).unwrap_err().to_string(),
        "t.toml:6:16: health.password_env: the variable P is empty; expected one line, the password"
    );
}

#[test]
fn from_a_file_of_its_own() {
    let sections = "[auth.query]\n[health]\npassword_file = \"p\"";
    let config = load("", sections, &[("p", 0o600, "geheim\r\n")]).unwrap();
    assert_eq!(shown(&config.health.password), Some("geheim"));
    assert_eq!(config.warnings, []);
    let config = load("", sections, &[("p", 0o604, "geheim")]).unwrap();
    assert_eq!(
        warnings(&config),
        ["7:17: health.password_file: others than its owner can read p; chmod 600 keeps it secret"]
    );
    assert_eq!(
        load("", sections, &[("p", 0o600, "a\nb\n")]).unwrap_err(),
        "t.toml:7:17: health.password_file: p has several lines; expected one line, the password"
    );
    assert_eq!(
        load("", sections, &[]).unwrap_err(),
        "t.toml:7:17: health.password_file: cannot read p: No such file or directory (os error 2)"
    );
}

#[test]
fn from_a_passfile() {
    let sections = "[auth.query]\nuser = \"q\"\n[[users]]\nname = \"app\"\n[[users]]\nname = \"own\"\npassword = \"own\"\n[[users]]\nname = \"other\"";
    let passfile = "# comment\n10.0.0.1:5432:postgres:pgpilot:one\n*:*:other:q:wrong\nbroken\n*:*:*:q:t\\:wo\n*:5432:app:app:three\n*:*:*:own:four\n";
    let config = load("passfile = \"p\"", sections, &[("p", 0o600, passfile)]).unwrap();
    assert_eq!(shown(&config.health.password), Some("one"));
    assert_eq!(shown(&config.auth.query.as_ref().unwrap().password), Some("t:wo"));
    assert_eq!(config.users.iter().map(|u| shown(&u.password)).collect::<Vec<_>>(), [Some("three"), Some("own"), None]);
    assert_eq!(
        warnings(&config),
        [
            "11:12: a password in a file that others than its owner can read; chmod 600 keeps it secret",
            "p:4:1: expected host:port:database:user:password; this line is passed over",
        ]
    );
}

#[test]
fn a_passfile_that_contradicts_itself() {
    let sections = "[[nodes]]\nname = \"pg2\"\nhost = \"10.0.0.2\"\n[health]\nuser = \"h\"";
    let passfile = "10.0.0.1:*:*:h:one\n*:*:*:h:two\n";
    assert_eq!(
        load("passfile = \"p\"", sections, &[("p", 0o600, passfile)]).unwrap_err(),
        "t.toml:9:8: the passfile has several passwords for the user \"h\"; expected the same for all nodes"
    );
}

#[test]
fn only_one_source() {
    let text = with_node(
        "",
        "[[users]]\nname = \"a\"\npassword = \"geheim\"\npassword_env = \"P\"\n[auth.query]\npassword = \"x\"",
    );
    assert_eq!(
        problems(&text),
        [
            "8:16: users: expected only one of password, password_env and password_file",
            "10:12: auth.query has a password, but no user; expected both or neither",
        ]
    );
}

#[test]
fn problems_show_no_password() {
    for (line, expected) in [
        (
            "password = 4711",
            "7:12: users.password: found integer (not shown), expected a password in quotes, not empty",
        ),
        (
            "password = [\"4711\"]",
            "7:12: users.password: found array (not shown), expected a password in quotes, not empty",
        ),
        ("password = geheim4711", "7:12: not TOML: string values must be quoted, expected literal string"),
        ("pasword = \"4711\"", "7:1: unknown key users.pasword; did you mean password?"),
        ("password = \"4711", "7:17: not TOML: invalid basic string, expected `\"`"),
    ] {
        assert_eq!(problems(&with_node("", &format!("[[users]]\nname = \"a\"\n{line}"))), [expected]);
    }
}

#[test]
fn relative_paths_start_at_the_topology_file() {
    let files = [("c", 0o600, ""), ("k", 0o640, "")];
    let config = load("", "[auth.query]\n[tls]\ncertificate = \"c\"\nkey = \"k\"", &files).unwrap();
    let (certificate, key) = (config.tls.certificate.unwrap(), config.tls.key.unwrap());
    assert!(certificate.is_absolute() && certificate.parent() == key.parent());
    assert_eq!(key.file_name().map(Path::new), Some(Path::new("k")));
}
