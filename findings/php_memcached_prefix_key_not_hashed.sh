#!/usr/bin/env bash
# The node of a key by PHP's memcached with Memcached::OPT_PREFIX_KEY, and with the prefix in the key.
set -euo pipefail
command -v memcached >/dev/null || { echo "memcached is missing"; exit 77; }
php -r 'exit((int) !extension_loaded("memcached"));' 2>/dev/null || { echo "php-memcached is missing"; exit 77; }
folder=$(mktemp -d)
servers=()
trap '[ -z "${servers[*]}" ] || kill "${servers[@]}"; rm -rf "$folder"' EXIT
user=()
[ "$(id -u)" != 0 ] || user=(-u root)
for name in a b c; do
    memcached "${user[@]}" -s "$folder/$name.sock" &
    servers+=($!)
done
for name in a b c; do
    for _ in $(seq 100); do
        [ -S "$folder/$name.sock" ] && break
        sleep 0.1
    done
done
memcached -V
php -r '
$folder = $argv[1];
echo "php-memcached ", phpversion("memcached"), ", libmemcached ", Memcached::LIBMEMCACHED_VERSION_HEX, "\n";
$clients = [];
foreach (["prefix option", "prefix in key"] as $name) {
    $clients[$name] = new Memcached();
    $clients[$name]->setOption(Memcached::OPT_LIBKETAMA_COMPATIBLE, true);
    foreach (["a", "b", "c"] as $server) {
        $clients[$name]->addServer("$folder/$server.sock", 0);
    }
}
$clients["prefix option"]->setOption(Memcached::OPT_PREFIX_KEY, "app:");
$found = 0;
for ($i = 0; $i < 300; $i++) {
    $clients["prefix option"]->set("key:$i", "value");
    $found += $clients["prefix in key"]->get("app:key:$i") === "value" ? 1 : 0;
}
echo "of 300 keys with OPT_PREFIX_KEY, found by the same key on the wire: $found\n";
exit($found > 60 && $found < 240 ? 0 : 1);
' "$folder"
