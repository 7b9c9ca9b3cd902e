//! What the node is told, from four places: a flag beats the environment, which beats the file, which
//! beats the default.
//!
//! Every place gives texts under a setting's name; one table ([`table`]) says what the texts mean. A text
//! that cannot be right stops the start, with a sentence that says what to write instead.

mod args;
mod auth;
mod check;
mod figures;
mod file;
mod form;
mod mesh;
mod persona;
mod table;
mod tls;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt::{self, Display},
    path::{Path, PathBuf},
};

use self::table::{Effect, SETTINGS, Setting, Shape};
pub(crate) use self::{
    args::Flags,
    form::{duration, log_level, peer},
    mesh::{parse_secret, read_secret},
    persona::Persona,
};
use crate::{auth::HttpGuard, config::Config};

/// Begins the names of the environment variables that are read.
const PREFIX: &str = "BRUIT_";
/// Names the file, unless `--config` does.
const FILE_VARIABLE: &str = "BRUIT_CONFIG";

/// The node's settings, resolved and checked.
#[derive(Debug)]
pub(crate) struct Settings {
    /// For the node.
    pub(crate) config: Config,
    /// What the user should know although the node starts; one line each.
    pub(crate) warnings: Vec<String>,
    /// Each setting that has an effect, with the place that decided it.
    pub(crate) rows: Vec<Row>,
}

/// One setting as it holds.
#[derive(Debug)]
pub(crate) struct Row {
    /// The flag's name.
    pub(crate) name: &'static str,
    /// The value, as a flag would give it.
    pub(crate) value: String,
    /// The place that decided it.
    pub(crate) origin: Origin,
}

/// The place that a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The command line.
    Flag,
    /// An environment variable.
    Environment,
    /// A line of the file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// Nobody said anything.
    Default,
}

/// Settings that cannot hold; one sentence each, which says what to do.
#[derive(Debug)]
pub(crate) struct SettingsError(Vec<String>);

impl Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for SettingsError {}

/// A text that one place gives for one setting.
#[derive(Debug)]
struct Given {
    text: String,
    origin: Origin,
}

/// What the places give, by setting; a later place replaces an earlier one.
type Texts = BTreeMap<&'static str, Given>;

impl Settings {
    /// Resolves `flags` with the variables of `environment` and the file that either of them names.
    ///
    /// # Errors
    /// All that is wrong in the first place where something is wrong.
    pub(crate) fn resolve(
        flags: &Flags,
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, SettingsError> {
        Self::resolve_as(Persona::Bruit, flags, environment)
    }

    /// As [`resolve`](Self::resolve), with the defaults and the meanings of the program that is played.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub(crate) fn resolve_as(
        persona: Persona,
        flags: &Flags,
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, SettingsError> {
        let mut warnings = Vec::new();
        let (variables, file) = read_environment(environment, &mut warnings)?;
        let mut texts = match flags.file().or(file) {
            Some(path) => read_file(&path)?,
            None => Texts::new(),
        };
        texts.extend(variables);
        for (name, text) in flags.texts() {
            texts.insert(name, Given { text: text.to_owned(), origin: Origin::Flag });
        }

        persona.translate(&mut texts);
        let config = apply(persona, &texts, &mut warnings)?;
        let problems = check::check(&config);
        if !problems.is_empty() {
            return Err(SettingsError(problems));
        }
        let rows = rows(&config, &texts);
        Ok(Self { config, warnings, rows })
    }
}

fn read_file(path: &Path) -> Result<Texts, SettingsError> {
    let content = std::fs::read_to_string(path).map_err(|error| {
        SettingsError(vec![format!("cannot read the configuration file {}: {error}", path.display())])
    })?;
    file::parse(path, &content).map_err(SettingsError)
}

/// The texts of the environment, and the file that it names.
fn read_environment(
    environment: impl Iterator<Item = (OsString, OsString)>,
    warnings: &mut Vec<String>,
) -> Result<(Texts, Option<PathBuf>), SettingsError> {
    let (mut texts, mut file) = (Texts::new(), None);
    for (name, value) in environment {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        if name == FILE_VARIABLE {
            file = Some(PathBuf::from(value));
            continue;
        }
        let Some(setting) = SETTINGS.iter().find(|setting| setting.variable() == name) else {
            // Kubernetes gives every pod variables such as BRUIT_PORT when a service is called bruit.
            if name != "BRUIT_TOKEN" && !name.starts_with("BRUIT_PORT") && !name.starts_with("BRUIT_SERVICE_")
            {
                warnings
                    .push(format!("{name} is no setting and has no effect; `bruit config show` lists them"));
            }
            continue;
        };
        let Ok(text) = value.into_string() else {
            return Err(SettingsError(vec![format!("{name} is not UTF-8")]));
        };
        texts.insert(setting.name, Given { text, origin: Origin::Environment });
    }
    Ok((texts, file))
}

fn apply(persona: Persona, texts: &Texts, warnings: &mut Vec<String>) -> Result<Config, SettingsError> {
    let mut config = persona.defaults(defaults());
    let (mut problems, mut secrets) = (Vec::new(), Vec::new());
    for (setting, given) in SETTINGS.iter().filter_map(|setting| Some((setting, texts.get(setting.name)?))) {
        let name = given.name_of(setting);
        match &setting.effect {
            Effect::Secret { .. } if given.text.is_empty() => {}
            Effect::Secret { read, .. } => match read(&given.text) {
                Ok(secret) => secrets.push((secret, name, &given.origin)),
                Err(problem) => problems.push(format!("{name}: {problem}")),
            },
            Effect::Applied { apply, .. } => {
                if let Err(problem) = apply(&mut config, &given.text) {
                    problems.push(format!("{name}: {:?} {problem}", given.text));
                }
            }
            Effect::Ignored(_) if setting.shape == Shape::Switch && !given.is_switch() => {
                problems.push(format!("{name}: {:?} is neither true nor false", given.text));
            }
            Effect::Ignored(why) => warnings.push(format!("{name} has no effect here: {why}")),
        }
    }
    if !problems.is_empty() {
        return Err(SettingsError(problems));
    }
    config.mesh.secret = mesh::choose_secret(secrets)?;
    settle(&mut config, texts, warnings);
    tls::settle(&mut config.tls, |name| texts.contains_key(name));
    mesh::settle(&mut config.mesh, |name| texts.contains_key(name));
    // Whoever names a port means that one.
    config.mesh.any_port &= !texts.contains_key("gossip-address") && !texts.contains_key("mesh-address");
    Ok(config)
}

/// Settings that follow from others.
fn settle(config: &mut Config, texts: &Texts, warnings: &mut Vec<String>) {
    let limits = &mut config.limits;
    // Until nsqd had a flag for it, the longest REQ delay was the longest DPUB delay too.
    if texts.contains_key("max-req-timeout") && !texts.contains_key("max-defer-timeout") {
        limits.max_defer_timeout = limits.max_req_timeout;
    }
    let auth = &config.auth;
    if auth.is_enabled() && auth.http == HttpGuard::Off && config.http_address.is_some() {
        warnings.push(
            "clients have to AUTH, but whoever reaches --http-address may publish and delete without: see --http-auth"
                .to_owned(),
        );
    }
    // The idiom for "keep everything on disk" with nsqd, which is the case here anyway.
    if limits.mem_queue_size == 0 {
        limits.mem_queue_size = 1;
        warnings.push(
            "mem-queue-size 0 is taken as 1: it concerns #ephemeral topics and channels only, all others are on \
             disk"
                .to_owned(),
        );
    }
}

fn rows(config: &Config, texts: &Texts) -> Vec<Row> {
    let mut rows = Vec::new();
    for setting in SETTINGS {
        let given = texts.get(setting.name);
        let value = match setting.effect {
            Effect::Applied { show, .. } => show(config),
            // What cannot be a flag is a row only where it is given: `--help` does not list it either.
            Effect::Secret { .. } if given.is_none() && setting.shape == Shape::Hidden => continue,
            Effect::Secret { show, .. } => given.map(|given| show(&given.text)).unwrap_or_default(),
            Effect::Ignored(_) => continue,
        };
        let origin = given.map_or(Origin::Default, |given| given.origin.clone());
        rows.push(Row { name: setting.name, value, origin });
    }
    rows
}

/// What holds when nobody says anything: the configuration's defaults, and this machine's name.
fn defaults() -> Config {
    let mut config = Config::default();
    if let Ok(hostname) = rustix::system::uname().nodename().to_str() {
        config.hostname = hostname.to_owned();
    }
    config
}

impl Given {
    /// The setting's name as this place spells it.
    fn name_of(&self, setting: &Setting) -> String {
        match &self.origin {
            Origin::Flag | Origin::Default => format!("--{}", setting.name),
            Origin::Environment => setting.variable(),
            Origin::File { path, line } => format!("{} ({}:{line})", setting.key(), path.display()),
        }
    }

    /// Whether the text turns a switch on or off, by Go's rules.
    fn is_switch(&self) -> bool {
        <figures::OnOff as form::Form<bool>>::parse(&self.text).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Durability;

    pub(super) fn resolve(flags: &[&str], environment: &[(&str, &str)]) -> Result<Settings, String> {
        let flags = Flags::of(flags);
        let environment = environment.iter().map(|(name, value)| (name.into(), value.into()));
        Settings::resolve(&flags, environment).map_err(|error| error.to_string())
    }

    fn file(content: &str) -> (tempfile::NamedTempFile, String) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let flag = format!("--config={}", file.path().display());
        (file, flag)
    }

    fn row<'a>(settings: &'a Settings, name: &str) -> &'a Row {
        settings.rows.iter().find(|row| row.name == name).unwrap()
    }

    fn refusal(flags: &[&str], because: &str) {
        let error = resolve(flags, &[]).unwrap_err();
        assert!(error.contains(because), "{flags:?}: {error}");
    }

    #[test]
    fn nothing_given_is_the_default_with_this_machines_name() {
        let settings = resolve(&[], &[]).unwrap();
        assert_eq!(settings.config.tcp_address, Config::default().tcp_address);
        assert_eq!(settings.config.data_path, PathBuf::from("bruit-data"));
        assert_eq!(settings.config.broadcast_address(), settings.config.hostname);
        assert!(settings.rows.iter().all(|row| row.origin == Origin::Default));
        assert!(settings.warnings.is_empty());
    }

    #[test]
    fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
        let (_file, config) = file("max_rdy_count = 3\nmax_connections = 30\n\nmsg_timeout = \"30s\"\n");
        let environment = [("BRUIT_MAX_RDY_COUNT", "2"), ("BRUIT_MAX_CONNECTIONS", "20")];
        let settings = resolve(&[&config, "--max-rdy-count=1"], &environment).unwrap();
        let limits = &settings.config.limits;
        assert_eq!((limits.max_rdy_count, limits.max_connections), (1, 20));
        assert_eq!(limits.msg_timeout, Duration::from_secs(30));
        assert_eq!(limits.max_msg_timeout, Duration::from_secs(900));

        assert_eq!(row(&settings, "max-rdy-count").origin, Origin::Flag);
        assert_eq!(row(&settings, "max-connections").origin, Origin::Environment);
        let Origin::File { line, .. } = row(&settings, "msg-timeout").origin else { panic!("from the file") };
        assert_eq!((line, row(&settings, "msg-timeout").value.as_str()), (4, "30s"));
        assert_eq!(row(&settings, "max-msg-timeout").origin, Origin::Default);
    }

    #[test]
    fn the_environment_may_name_the_file_and_the_flag_beats_it() {
        let (from_environment, _) = file("max_rdy_count = 7");
        let (_from_flag, config) = file("max_rdy_count = 8");
        let path = from_environment.path().to_str().unwrap();
        let environment = [("BRUIT_CONFIG", path)];
        assert_eq!(resolve(&[], &environment).unwrap().config.limits.max_rdy_count, 7);
        assert_eq!(resolve(&[&config], &environment).unwrap().config.limits.max_rdy_count, 8);
        refusal(&["--config=/no/such/file"], "cannot read the configuration file /no/such/file");
    }

    #[test]
    fn every_setting_shows_a_value_that_it_reads_again() {
        let shown = resolve(&[], &[]).unwrap();
        let flags: Vec<String> =
            shown.rows.iter().map(|row| format!("--{}={}", row.name, row.value)).collect();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let again = resolve(&flags, &[]).unwrap();
        for (row, again) in shown.rows.iter().zip(&again.rows) {
            assert_eq!((row.name, &row.value), (again.name, &again.value));
            assert_eq!(again.origin, Origin::Flag);
        }
    }

    #[test]
    fn a_bad_value_is_named_by_the_place_it_came_from() {
        refusal(&["--max-msg-size=big"], "--max-msg-size: \"big\" is no size: write bytes");
        let error = resolve(&[], &[("BRUIT_MSG_TIMEOUT", "60")]).unwrap_err();
        assert_eq!(
            error,
            "BRUIT_MSG_TIMEOUT: \"60\" is no duration: write a number and a unit, as in 250ms, 60s or 1h30m"
        );
        let (kept, config) = file("\nmax_rdy_count = \"many\"\n");
        let error = resolve(&[&config], &[]).unwrap_err();
        let place = format!("max_rdy_count ({}:2): \"many\" is no whole number", kept.path().display());
        assert!(error.starts_with(&place), "{error}");
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let error = resolve(&["--max-rdy-count=x", "--msg-timeout=y"], &[]).unwrap_err();
        assert!(error.contains("--max-rdy-count") && error.contains("--msg-timeout"), "{error}");
    }

    #[test]
    fn flags_of_nsqd_without_effect_are_accepted_and_say_so() {
        let settings = resolve(&["--sync-every=1", "--node-id=7", "--worker-id=5"], &[]).unwrap();
        assert_eq!(settings.warnings.len(), 3);
        assert!(settings.warnings.iter().any(|line| line
            == "--sync-every has no effect here: messages are synced before they are acknowledged (see \
                --durability)"));
        let settings = resolve(&[], &[("BRUIT_SYNC_TIMEOUT", "2s")]).unwrap();
        assert!(settings.warnings[0].starts_with("BRUIT_SYNC_TIMEOUT has no effect here"));
        let (_kept, config) = file("id = 5");
        let settings = resolve(&[&config], &[]).unwrap();
        assert!(settings.warnings[0].starts_with("id ("), "{:?}", settings.warnings);
        assert!(settings.rows.iter().all(|row| row.name != "node-id"));
    }

    #[test]
    fn unknown_variables_are_mentioned_but_those_of_kubernetes_are_not() {
        let environment =
            [("BRUIT_TCP_ADRESS", ":1"), ("BRUIT_PORT", "tcp://10.0.0.1:4150"), ("BRUIT_SERVICE_HOST", "x")];
        let settings = resolve(&[], &environment).unwrap();
        assert_eq!(settings.warnings.len(), 1);
        assert!(settings.warnings[0].starts_with("BRUIT_TCP_ADRESS is no setting"));
    }

    #[test]
    fn the_longest_defer_follows_the_longest_requeue_unless_given() {
        let limits = |flags: &[&str]| resolve(flags, &[]).unwrap().config.limits;
        let day = Duration::from_secs(86_400);
        assert_eq!(limits(&["--max-req-timeout=24h"]).max_defer_timeout, day);
        let apart = limits(&["--max-req-timeout=24h", "--max-defer-timeout=1h"]);
        assert_eq!((apart.max_req_timeout, apart.max_defer_timeout), (day, Duration::from_secs(3600)));
    }

    #[test]
    fn topic_durability_may_be_repeated_and_replaces_that_of_the_file() {
        let (_kept, config) = file("topic_durability = [\"a=os\", \"b=os\"]");
        let rules = |flags: &[&str]| resolve(flags, &[]).unwrap().config.journal.rules;
        assert_eq!(rules(&[&config]).len(), 2);
        let flags = rules(&[&config, "--topic-durability=x=fsync", "--topic-durability", "*=os"]);
        assert_eq!((flags.len(), flags[1].durability), (2, Durability::Os));
    }

    #[test]
    fn a_memory_queue_of_none_is_what_durable_topics_have_anyway() {
        let settings = resolve(&["--mem-queue-size=0"], &[]).unwrap();
        assert_eq!(settings.config.limits.mem_queue_size, 1);
        assert!(settings.warnings[0].contains("#ephemeral"));
    }
}
