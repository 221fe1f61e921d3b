#!/bin/sh
# An external driver: it publishes the files of a web site, so what it runs is no process. A run is up while
# `config.link` leads to its files, `config.files`. See the documentation of `driver::external` for what is asked of it.
set -eu
document=$(cat)
# Good for texts without quotes; jq is good for all.
said() { printf %s "$document" | sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }
state=$(said state) files=$(said files) link=$(said link)
[ -n "$state" ] || exit 1
is_up() { [ "$(readlink "$link")" = "$state/files" ]; }

case $1 in
start)
    [ -d "$files" ] && [ -n "$link" ] || { echo "config: files and link: a directory and a path" >&2; exit 1; }
    # Once, whoever else is at it.
    mkdir "$state/begun" 2>/dev/null || exit 0
    ln -s "$files" "$state/files"
    # Visitors see the old files or the new ones.
    ln -s "$state/files" "$link.$$"
    mv -T "$link.$$" "$link"
    ;;
look)
    if [ ! -d "$state/begun" ]; then echo '{"state":"absent"}'
    elif is_up; then echo '{"state":"running"}'
    elif [ -e "$state/stopped" ]; then echo '{"state":"ended","code":0}'
    else echo '{"state":"ended","code":1}'; fi
    ;;
stop)
    touch "$state/stopped"
    if is_up; then rm "$link"; fi
    ;;
run) if [ -e "$link/index.html" ]; then echo '{"code":0}'; else echo '{"code":1}'; fi ;;
forget) ;;
esac
