#!/bin/sh
# Programs as they should not be, each by the name that it is called by.
read -r _
case "$(basename "$0") $1" in
'hangs start') sleep 1000 & echo $! > state/sleeper; wait ;;
'hangs look') echo '{"state":"absent"}' ;;
'floods look') exec yes ;;
'babbles look') echo 'I am well' ;;
'lingers look') sleep 3 & echo '{"state":"running"}' ;;
'fails start') yes nonsense | head -c 1000000 >&2; echo 'there is no room' >&2; exit 7 ;;
'fails look') echo '{"state":"ended","code":1}' ;;
'fails forget') exit 1 ;;
'lives start') exit 1 ;;
'lives look') echo '{"state":"running"}' ;;
esac
