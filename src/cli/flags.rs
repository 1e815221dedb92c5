//! The command line as clap understands it, made from the list of settings.

use crate::config::{CONFIG, Group, Setting, Shape, VERBS, Verb};
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::collections::BTreeMap;

const ABOUT: &str = "Runs a neural network as a pipeline of stages: each a process that holds some of the layers";

const FIRST_STEPS: &str = "\
First steps:
  A Hugging Face folder, whole, here and now:
    stageline run MODEL_DIR --chat --prompt 'Why is the sky blue?'
  The same model cut into three stages, and served on port 8080:
    stageline split MODEL_DIR --stages 3 --out pipeline
    stageline up pipeline
    curl -d '{\"prompt\": \"The capital of France is\"}' http://127.0.0.1:8080/

`stageline COMMAND --help` explains a command and shows examples.";

const EVERYWHERE: &str = "\
Every flag is also an environment variable (--max-queue: STAGELINE_MAX_QUEUE) and a key of stageline.toml (max_queue). \
A flag wins over the environment, the environment over the file, the file over the default. \
Wrong settings end the program with status 64.";

/// The whole command line.
pub fn command() -> Command {
    Command::new("stageline")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .after_help(format!("{FIRST_STEPS}\n\n{EVERYWHERE}"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .max_term_width(110)
        .subcommands(VERBS.iter().map(|verb| subcommand(verb)))
}

fn subcommand(verb: &Verb) -> Command {
    let positional = verb.settings().filter(|setting| setting.positional).map(Setting::on_command_line);
    let usage: Vec<String> = ["stageline", verb.name].map(str::to_owned).into_iter().chain(positional).collect();
    Command::new(verb.name)
        .visible_aliases(verb.alias)
        .about(verb.about)
        .override_usage(format!("{} [OPTIONS]", usage.join(" ")))
        .after_help(format!("{}\n\n{EVERYWHERE}", verb.examples))
        .args(verb.groups.iter().flat_map(|group| group.settings.iter().map(|setting| argument(group, setting))))
}

/// A setting as clap's argument. None is required here: the environment or the file may have it.
fn argument(group: &Group, setting: &Setting) -> Arg {
    let default = setting.default.map(|text| format!(" [default: {text}]")).unwrap_or_default();
    let arg = Arg::new(setting.key).help(format!("{}{default}", setting.help)).hide(setting.hidden);
    let arg = if setting.positional { arg } else { arg.long(setting.flag()).help_heading(group.heading) };
    match setting.shape {
        // "-5" and "-1s" are values too: wrong ones, of which check() can say more than clap.
        Shape::Value(name) => arg.value_name(name).action(ArgAction::Set).allow_hyphen_values(true),
        Shape::List(name) if setting.positional => arg.value_name(name).num_args(0..).action(ArgAction::Append),
        Shape::List(name) => arg.value_name(name).action(ArgAction::Append).allow_hyphen_values(true),
        Shape::Switch => arg
            .value_name("BOOL")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .action(ArgAction::Set),
    }
}

/// The values that stand on the command line, by key; the path of the settings' file is not one of them.
pub fn values(matches: &ArgMatches) -> BTreeMap<String, Vec<String>> {
    let keys = matches.ids().map(|id| id.as_str()).filter(|key| *key != CONFIG.key);
    keys.filter_map(|key| {
        let values = matches.get_many::<String>(key)?;
        Some((key.to_owned(), values.cloned().collect()))
    })
    .collect()
}
