# A workload that prints one line a part; the lines are the same on every correct machine. Its argument: MiB to hash.
echo "hash $(yes ostler | head -c $(($1 * 1048576)) | sha256sum)"

seq 1 60000 | awk '{ print ($1 * 7919) % 60013, $1 }' >numbers
echo "sort $(sort -n numbers | sha256sum)"

gzip <numbers >numbers.gz
echo "gzip $(gunzip <numbers.gz | cmp - numbers && echo round trip) $(sha256sum <numbers)"

echo "awk $(awk 'BEGIN { for (i = 1; i <= 300000; i++) { a = (a * 31 + i) % 1000003; b += a / i } printf "%d %.12g\n", a, b }')"

i=0 x=1
while [ $i -lt 30000 ]; do
	x=$(((x * 1103515245 + 12345) % 2147483648))
	i=$((i + 1))
done
echo "shell $x"

i=0
while [ $i -lt 1000 ]; do
	busybox true && i=$((i + 1))
done
echo "fork+exec $i"

# Pi by Machin's formula, e by its series, the square root of two by Newton: known to the last digit shown.
echo "float $(awk '
function arctan(q,  x, sum, n, s) { x = 1 / q; s = 1; for (n = 1; n < 60; n += 2) { sum += s * x / n; x /= q * q; s = -s } return sum }
BEGIN {
	pi = 16 * arctan(5) - 4 * arctan(239)
	t = 1; for (n = 1; n < 25; n++) { e += t; t /= n }
	r = 1; for (n = 0; n < 8; n++) r = (r + 2 / r) / 2
	printf "%.14f %.14f %.14f", pi, e, r
	if (pi - 3.14159265358979 < 1e-13 && e - 2.71828182845905 < 1e-13 && r - 1.41421356237310 < 1e-13) print " known"
}')"

(for n in 1 2 3 4 5 6 7 8; do (seq $n 20000 | md5sum >part.$n) & done; wait)
echo "parallel $(cat part.* | md5sum)"
