//! The config: what is found where, what is stronger, what is refused and how, and what is never shown.

use async_trait::async_trait;
use evstore::api::{
    ConfigKey, Error, ErrorKind, EventStore, KeyDefault, KeyKind, Opener, Provider, Result, Secrecy, Settings,
    StoreAdmin, StoreName,
};
use evstore::{Config, Environment, Registry, Shown, Sources, ValueOrigin};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What must never be seen.
const CANARY: &str = "canary-4f1d";

const KEYS: &[ConfigKey] = &[
    ConfigKey {
        name: "url",
        kind: KeyKind::Text,
        default: KeyDefault::Required,
        secrecy: Secrecy::Secret,
        sentence: "The server.",
    },
    ConfigKey {
        name: "pool_max",
        kind: KeyKind::Count,
        default: KeyDefault::Value("8"),
        secrecy: Secrecy::Plain,
        sentence: "Most connections.",
    },
    ConfigKey {
        name: "pin",
        kind: KeyKind::Count,
        default: KeyDefault::Absent,
        secrecy: Secrecy::Secret,
        sentence: "A secret number.",
    },
    ConfigKey {
        name: "spool",
        kind: KeyKind::Path,
        default: KeyDefault::Absent,
        secrecy: Secrecy::Plain,
        sentence: "A folder.",
    },
];

/// A provider that can't be reached.
struct Unreachable;

#[async_trait]
impl Opener for Unreachable {
    async fn open(&self, _: &Settings) -> Result<Arc<dyn EventStore>> {
        Err(Error::new(ErrorKind::Unavailable, "the server does not answer"))
    }

    async fn open_admin(&self, _: &Settings) -> Result<Arc<dyn StoreAdmin>> {
        Err(Error::new(ErrorKind::Unavailable, "the server does not answer"))
    }

    fn scratch(&self, settings: &Settings, _: &str) -> Result<Settings> {
        Ok(settings.clone())
    }

    async fn make_scratch(&self, settings: &Settings, _: &str) -> Result<Settings> {
        Ok(settings.clone())
    }

    async fn drop_scratch(&self, _: &Settings) -> Result<()> {
        Ok(())
    }

    async fn list_scratch(&self, _: &Settings) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}

fn registry() -> Registry {
    Registry::empty().with(Provider {
        name: "remote",
        sentence: "A server for tests.",
        keys: KEYS,
        opener: Arc::new(Unreachable),
    })
}

fn name(text: &str) -> StoreName {
    StoreName::new(text).unwrap()
}

/// A folder with a config file, and where to read it from.
struct Folder(tempfile::TempDir);

impl Folder {
    fn with(file: &str, text: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write(file, text);
        folder
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.0.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn sources(&self, variables: &[(&str, &str)]) -> Sources {
        Sources::new(self.path(), Environment::of(variables.iter().copied()))
    }

    fn load(&self, variables: &[(&str, &str)]) -> Config {
        Config::load(&self.sources(variables)).unwrap()
    }
}

/// The refusal of a file, as a user reads it.
fn refusal(text: &str) -> String {
    let checked = Config::parse(text).and_then(|config| {
        let problem = registry().problems(&config).into_iter().next();
        problem.map_or(Ok(()), Err)
    });
    let error = checked.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    error.to_string()
}

fn shown<'a>(all: &'a [Shown], key: &str) -> &'a Shown {
    all.iter().find(|shown| shown.key == key).unwrap()
}

#[test]
fn flag_is_stronger_than_environment_than_file_than_default() {
    let folder = Folder::with("evstore.toml", "[stores.main]\nprovider = \"remote\"\nurl = \"a://b\"\npool_max = 2\n");
    let pool = |sources: &Sources| {
        let config = Config::load(sources).unwrap();
        registry().settings(&config, &name("main")).unwrap().settings.number("pool_max").unwrap()
    };
    let variables = [("EVSTORE_STORES__MAIN__POOL_MAX", "3")];
    assert_eq!(pool(&folder.sources(&[])), 2);
    assert_eq!(pool(&folder.sources(&variables)), 3);
    assert_eq!(pool(&folder.sources(&variables).with_flag("--pool", "stores.main.pool_max", "4")), 4);
    folder.write("evstore.toml", "[stores.main]\nprovider = \"remote\"\nurl = \"a://b\"\n");
    assert_eq!(pool(&folder.sources(&[])), 8);
}

#[test]
fn files_are_looked_for_in_order() {
    let one = |store: &str| format!("[stores.{store}]\nprovider = \"remote\"\nurl = \"a://b\"\n");
    let folder = Folder::with("home/evstore/evstore.toml", &one("home"));
    let home = folder.path().join("home").to_string_lossy().into_owned();
    let of_user = [("XDG_CONFIG_HOME", home.as_str())];
    let by_variable = [of_user[0], ("EVSTORE_CONFIG", "variable.toml")];
    let default = |sources: Sources| Config::load(&sources).unwrap().default_store().unwrap().to_string();

    assert_eq!(default(folder.sources(&[])), "main", "the embedded default");
    assert_eq!(default(folder.sources(&of_user)), "home");
    folder.write("evstore.toml", &one("here"));
    assert_eq!(default(folder.sources(&of_user)), "here");
    folder.write("variable.toml", &one("variable"));
    assert_eq!(default(folder.sources(&by_variable)), "variable");
    folder.write("named.toml", &one("named"));
    assert_eq!(default(folder.sources(&by_variable).with_file("named.toml")), "named");
}

#[test]
fn a_file_that_is_named_has_to_be_there() {
    let folder = Folder::with("evstore.toml", "");
    let error = Config::load(&folder.sources(&[]).with_file("nowhere.toml")).unwrap_err();
    assert!(error.to_string().starts_with("the config file can't be read (file: nowhere.toml)"), "{error}");
}

#[test]
fn without_a_file_there_is_one_embedded_store() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let config = folder.load(&[]);
    assert_eq!(config.file(), None);
    let shown = registry().shown(&config);
    let expected = [("default_store", "main"), ("stores.main.provider", "sqlite")];
    for ((key, value), shown) in expected.into_iter().zip(&shown) {
        assert_eq!((shown.key.as_str(), shown.value.as_str(), &shown.origin), (key, value, &ValueOrigin::Default));
    }
    let configured = Registry::builtin().settings(&config, &name("main")).unwrap();
    assert_eq!(configured.settings.path("path"), Some(folder.path().join("evstore.db")));
}

#[test]
fn a_variable_can_choose_another_provider_without_a_file() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let config = folder.load(&[("EVSTORE_STORES__MAIN__PROVIDER", "memory")]);
    assert_eq!(Registry::builtin().settings(&config, &name("main")).unwrap().provider.name, "memory");
}

#[test]
fn paths_start_at_the_folder_of_the_file() {
    let text = "[stores.main]\nprovider = \"remote\"\nurl = { file = \"secrets/url\" }\nspool = \"spool\"\n";
    let folder = Folder::with("conf/evstore.toml", text);
    folder.write("conf/secrets/url", "a://b\n");
    let config = Config::load(&folder.sources(&[]).with_file("conf/evstore.toml")).unwrap();
    let settings = registry().settings(&config, &name("main")).unwrap().settings;
    assert_eq!(settings.path("spool"), Some(folder.path().join("conf").join("spool")));
    assert_eq!(settings.text("url"), Some("a://b"), "without the line break at the end");
}

#[test]
fn a_variable_finds_a_store_with_a_hyphen() {
    let text = "[stores.my-store]\nprovider = \"remote\"\nurl = \"a://b\"\n";
    let config = Folder::with("evstore.toml", text).load(&[("EVSTORE_STORES__MY_STORE__POOL_MAX", "5")]);
    assert_eq!(registry().settings(&config, &name("my-store")).unwrap().settings.number("pool_max"), Some(5));
}

#[test]
fn unknown_keys_are_refused_with_the_known_ones() {
    assert_eq!(
        refusal("default_stor = \"main\"\n"),
        "no such key (key: default_stor, file: evstore.toml:1, known: default_store stores migrate)"
    );
    assert_eq!(
        refusal("[stores.main]\nprovider = \"remote\"\nurl = \"a://b\"\npool_maxx = 3\n"),
        "no such key (store: main, key: pool_maxx, file: evstore.toml:4, provider: remote, known: provider url pool_max \
         pin spool call_timeout append_timeout read_timeout retries_max retry_pause_min retry_pause_max)"
    );
    assert_eq!(
        refusal("[stores.main]\nprovider = \"remote\"\n[migrate]\ntarget = [\"main\"]\n"),
        "no such key (key: migrate.target, file: evstore.toml:4, known: targets throttle expect_nodes)"
    );
}

#[test]
fn an_unknown_variable_of_the_config_is_refused_and_of_others_told() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let error = Config::load(&folder.sources(&[("EVSTORE_STOERS__MAIN__PATH", "x")])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no such key (key: stoers.main.path, variable: EVSTORE_STOERS__MAIN__PATH, known: default_store stores migrate)"
    );
    let config = folder.load(&[("EVSTORE_HOME", "x"), ("EVSTORE_TEST_POSTGRES", "x")]);
    let warnings: Vec<_> = registry().warnings(&config).into_iter().map(|warning| warning.key).collect();
    assert_eq!(warnings, ["EVSTORE_HOME"]);
}

#[test]
fn unknown_providers_and_those_not_built_in_are_told_apart() {
    assert_eq!(
        refusal("[stores.primary]\nprovider = \"remoet\"\n"),
        "no such provider (store: primary, file: evstore.toml:2, provider: remoet, known: remote)"
    );
    assert_eq!(
        refusal("[stores.primary]\nprovider = \"postgres\"\n"),
        "the provider is not in this build; build with its feature (--features NAME), or with the feature full (store: primary, \
         file: evstore.toml:2, provider: postgres, feature: postgres)"
    );
    assert_eq!(
        refusal("[stores.primary]\nurl = \"a://b\"\n"),
        "a store names its provider (store: primary, key: provider, file: evstore.toml:2)"
    );
}

#[test]
fn values_that_do_not_fit_are_refused_at_their_line() {
    let main = "[stores.main]\nprovider = \"remote\"\nurl = \"a://b\"\n";
    assert_eq!(
        refusal(&format!("{main}pool_max = \"many\"\n")),
        "a value does not fit its key (store: main, key: pool_max, wanted: a whole number, given: many, \
         file: evstore.toml:4)"
    );
    assert_eq!(
        refusal(&format!("{main}\nappend_timeout = 2\n")),
        "a value does not fit its key (store: main, key: append_timeout, wanted: a time such as 2s or 250ms, given: 2, \
         file: evstore.toml:5)"
    );
    assert_eq!(
        refusal(&format!("{main}read_timeout = \"0s\"\n")),
        "a time of zero lets nothing happen (store: main, key: read_timeout, file: evstore.toml:4)"
    );
    assert_eq!(
        refusal("[stores.main]\nprovider = \"remote\"\n"),
        "a required key is missing (store: main, key: url, file: evstore.toml:2)"
    );
    assert_eq!(
        refusal(&format!("{main}pool = {{ max = 3 }}\n")),
        "a key of a store holds one value, not a table (key: stores.main.pool.max, file: evstore.toml:4)"
    );
    assert_eq!(refusal("stores = 3\n"), "this is a table (key: stores, file: evstore.toml:1)");
    assert!(refusal("[stores.Main]\nprovider = \"remote\"\n").starts_with("store name has a character other than"));
    assert_eq!(refusal(""), "the config names no store; add a table [stores.main] (file: evstore.toml)");
}

#[test]
fn stores_that_are_named_have_to_be_there() {
    let main = "[stores.main]\nprovider = \"remote\"\nurl = \"a://b\"\n";
    assert_eq!(
        refusal(&format!("default_store = \"other\"\n{main}")),
        "no such store (store: other, key: default_store, file: evstore.toml:1, known: main)"
    );
    assert_eq!(
        refusal(&format!("{main}[migrate]\ntargets = [\"main\", \"next\"]\n")),
        "no such store (store: next, key: migrate.targets, file: evstore.toml:5, known: main)"
    );
    let config = Config::parse(main).unwrap();
    assert_eq!(
        registry().settings(&config, &name("other")).unwrap_err().to_string(),
        "no such store (store: other, known: main, file: evstore.toml)"
    );
}

#[test]
fn the_default_store_is_the_named_the_only_or_main() {
    let store = |name: &str| format!("[stores.{name}]\nprovider = \"remote\"\n");
    let default = |text: &str| Config::parse(text).unwrap().default_store().map(|name| name.to_string());
    assert_eq!(default(&format!("default_store = \"b\"\n{}{}", store("a"), store("b"))).unwrap(), "b");
    assert_eq!(default(&store("a")).unwrap(), "a");
    assert_eq!(default(&format!("{}{}", store("a"), store("main"))).unwrap(), "main");
    let error = default(&format!("{}{}", store("a"), store("b"))).unwrap_err();
    assert_eq!(error.to_string(), "there are several stores; name one, or set default_store (known: a b)");
}

#[test]
fn what_the_config_says_of_migrations_is_read_now() {
    let main = "[stores.main]\nprovider = \"remote\"\n[stores.next]\nprovider = \"remote\"\n";
    let config =
        Config::parse(&format!("{main}[migrate]\ntargets = [\"next\"]\nthrottle = 500\nexpect_nodes = 3\n")).unwrap();
    let migrate = config.migrate();
    assert_eq!(
        (migrate.targets(), migrate.throttle(), migrate.expect_nodes()),
        (&[name("next")][..], Some(500), Some(3))
    );
    assert_eq!(
        refusal(&format!("{main}[migrate]\nthrottle = 0\n")),
        "a value does not fit its key (wanted: a whole number above 0, given: 0, key: migrate.throttle, \
         file: evstore.toml:6)"
    );
    let config = Folder::with("evstore.toml", main).load(&[("EVSTORE_MIGRATE__TARGETS", "next, main")]);
    assert_eq!(config.migrate().targets(), [name("next"), name("main")]);
}

#[test]
fn keys_of_the_layers_stand_beside_those_of_the_provider() {
    let text = "[stores.main]\nprovider = \"remote\"\nurl = \"a://b\"\nappend_timeout = \"250ms\"\nretries_max = 0\n";
    let layers = registry().settings(&Config::parse(text).unwrap(), &name("main")).unwrap().layers;
    assert_eq!((layers.append_timeout, layers.retries_max), (Duration::from_millis(250), 0));
    assert_eq!(layers.call_timeout, Duration::from_secs(30), "by default");
}

#[test]
fn every_value_tells_where_it_came_from() {
    let text = "default_store = \"main\"\n\n[stores.main]\nprovider = \"remote\"\nurl = \"${DB}\"\n";
    let folder = Folder::with("evstore.toml", text);
    let sources = folder.sources(&[("DB", CANARY), ("EVSTORE_STORES__MAIN__RETRIES_MAX", "1")]);
    let config = Config::load(&sources.with_flag("--pool", "stores.main.pool_max", "4")).unwrap();
    let all = registry().shown(&config);
    let line = |line| ValueOrigin::File { path: PathBuf::from("evstore.toml"), line };
    for (key, value, origin) in [
        ("default_store", "main", line(1)),
        ("stores.main.provider", "remote", line(4)),
        ("stores.main.url", "${DB}", line(5)),
        (
            "stores.main.retries_max",
            "1",
            ValueOrigin::Environment { variable: "EVSTORE_STORES__MAIN__RETRIES_MAX".into() },
        ),
        ("stores.main.pool_max", "4", ValueOrigin::Flag { flag: "--pool".into() }),
        ("stores.main.append_timeout", "5s", ValueOrigin::Default),
    ] {
        let shown = shown(&all, key);
        assert_eq!((shown.value.as_str(), &shown.origin), (value, &origin), "{key}");
    }
    assert_eq!(shown(&all, "stores.main.url").origin.to_string(), "evstore.toml:5");
}

#[test]
fn a_secret_that_is_not_there_is_named_when_its_store_is_used() {
    let text = "[stores.a]\nprovider = \"remote\"\nurl = \"${NOWHERE}\"\n[stores.b]\nprovider = \"remote\"\nurl = { file = \"gone\" }\n[stores.c]\nprovider = \"remote\"\nurl = \"a://b\"\n";
    let config = Config::parse(text).unwrap();
    let problem =
        |store: &str| registry().settings(&config, &name(store)).map(|_| ()).map_err(|error| error.to_string());
    assert_eq!(
        problem("a").unwrap_err(),
        "a variable that the config names is not set; set it (needs: $NOWHERE, store: a, key: url, file: evstore.toml:3)"
    );
    let missing = problem("b").unwrap_err();
    assert!(
        missing.starts_with("a file that the config names can't be read (needs: /gone, store: b, key: url"),
        "{missing}"
    );
    assert_eq!(problem("c"), Ok(()));
    assert_eq!(registry().problems(&config).len(), 2);
}

#[test]
fn a_literal_secret_works_and_is_warned_of() {
    let literal = format!("[stores.main]\nprovider = \"remote\"\nurl = \"a://me:{CANARY}@host/db\"\n");
    let warnings = registry().warnings(&Config::parse(&literal).unwrap());
    let told: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        ["a secret stands in the config file; write \"${VAR}\" or { file = \"path\" } (key: stores.main.url, origin: \
          evstore.toml:3)"]
    );
    let outside = "[stores.main]\nprovider = \"remote\"\nurl = \"a://me:${PW}@host/db\"\n";
    assert_eq!(registry().warnings(&Config::parse(outside).unwrap()), []);
}

#[tokio::test]
async fn a_secret_is_never_shown() {
    let mut seen = String::new();
    let mut see = |text: String| seen.push_str(&text);
    let literal = format!("[stores.main]\nprovider = \"remote\"\nurl = \"{CANARY}\"\npin = \"{CANARY}\"\n");
    let by_variable = "[stores.main]\nprovider = \"remote\"\nurl = \"a://${DB}\"\n";
    let in_file = "[stores.main]\nprovider = \"remote\"\nurl = { file = \"secret\" }\n";
    let of_unknown = format!("[stores.main]\nprovider = \"unknown\"\nurl = \"{CANARY}\"\n");
    for text in [&literal, by_variable, in_file, &of_unknown] {
        let folder = Folder::with("evstore.toml", text);
        folder.write("secret", CANARY);
        let sources = folder.sources(&[("DB", CANARY), ("EVSTORE_STORES__OTHER__URL", CANARY)]);
        let sources = sources.with_flag("--pin", "stores.other.pin", CANARY);
        see(format!("{sources:?}"));
        let config = Config::load(&sources).unwrap();
        see(format!("{config:?} {:?} {:?}", registry().shown(&config), registry().warnings(&config)));
        see(format!("{:?}", registry().problems(&config)));
        match registry().settings(&config, &name("main")) {
            Ok(configured) => {
                see(format!("{configured:?}"));
                let error = configured.open().await.unwrap_err();
                see(format!("{error:?} {error}"));
            }
            Err(error) => see(format!("{error:?} {error}")),
        }
    }
    let broken = format!("[stores.main]\nurl = \"{CANARY}\nprovider = 3\n");
    let error = Config::parse(&broken).unwrap_err();
    see(format!("{error:?} {error}"));
    assert!(seen.contains("***"), "{seen}");
    assert!(!seen.contains(CANARY), "{seen}");
}

#[test]
fn what_is_no_toml_is_refused_at_its_line() {
    let told = refusal("[stores.main]\nprovider = \"remote\nurl = 3\n");
    assert!(told.starts_with("the config file is not valid TOML (file: evstore.toml:2, reason: "), "{told}");
}

#[test]
fn a_template_names_every_key_and_can_be_read() {
    let text = registry().template("remote").unwrap();
    let keys = KEYS.iter().chain(evstore::layers::LAYER_KEYS).chain(evstore::config::MIGRATE_KEYS);
    for key in keys {
        assert!(text.contains(&format!("{} =", key.name)), "{}", key.name);
    }
    let folder = Folder::with("evstore.toml", &text);
    let config = folder.load(&[("URL", "a://b")]);
    assert_eq!(registry().problems(&config).len(), 0);
    assert_eq!(registry().warnings(&config), []);
    assert!(text.lines().all(|line| line.len() <= 120));
}

#[test]
fn templates_of_builtin_providers_can_be_read() {
    let registry = Registry::builtin();
    for provider in registry.providers() {
        let folder = Folder::with("evstore.toml", &registry.template(provider.name).unwrap());
        let problems = registry.problems(&folder.load(&[("URL", "a://b")]));
        assert!(problems.is_empty(), "{problems:?}");
    }
    let known: Vec<_> = registry.providers().map(|provider| provider.name).collect();
    assert_eq!(
        registry.template("memroy").unwrap_err().to_string(),
        format!("no such provider (provider: memroy, known: {})", known.join(" "))
    );
}
